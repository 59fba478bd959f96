"""The broker contract (protocol), what is provisioned (topology), and the two brokers that keep the contract."""
