"""What a deployment will do, before it is built: a cost model of bytes moved and operations done. Runs no engine."""
