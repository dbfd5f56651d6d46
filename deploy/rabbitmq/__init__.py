"""What the private RabbitMQ node is started with; read by ``broker.node`` as package data."""
