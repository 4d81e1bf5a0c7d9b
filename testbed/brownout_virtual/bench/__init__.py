"""A bench made of network namespaces: gateways with real sshd, mosquitto and nftables, virtual boards behind them."""
