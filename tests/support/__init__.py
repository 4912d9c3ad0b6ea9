"""What tests share: networks, servers, stand-ins for devices, skips."""
