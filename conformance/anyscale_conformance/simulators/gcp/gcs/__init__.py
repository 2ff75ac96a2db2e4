"""Cloud Storage: buckets by the JSON API, objects by the JSON and the XML API, signed URLs."""
