"""Provider plugin of anyscale-core: Ray clusters on Compute Engine. Loads no SDK before its first call."""
