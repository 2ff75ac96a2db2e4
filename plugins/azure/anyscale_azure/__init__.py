"""Provider plugin of anyscale-core: Ray clusters on Azure virtual machines. Loads no SDK before its first call."""
