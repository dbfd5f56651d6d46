"""AMQP by pika, which nothing else imports."""
