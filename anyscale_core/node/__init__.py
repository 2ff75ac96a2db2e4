"""What runs on every node: register, start Ray, heartbeat, drain. Talks outward only; decides nothing about other nodes."""
