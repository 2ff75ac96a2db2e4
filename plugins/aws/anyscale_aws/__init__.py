"""Provider plugin of anyscale-core: Ray clusters on EC2. Loads no SDK before its first call."""
