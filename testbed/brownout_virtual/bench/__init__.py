"""A bench made of network namespaces: gateways with real sshd, mosquitto and nftables, and virtual boards behind them."""
