"""Transport of commands and files to a device: ssh, adb shell, URLs, locks, reconnection."""
