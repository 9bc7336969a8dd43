"""Use the operating system: files that appear whole, locks, a cache folder, limits, guarded mappings."""
