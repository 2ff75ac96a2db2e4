"""Provider plugin of anyscale-core: Ray clusters as Pods of any Kubernetes. Loads no SDK before its first call."""
