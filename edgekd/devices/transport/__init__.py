"""How commands and files travel to a device: ssh, adb shell, URLs, locks, reconnection."""
