"""What the operating system gives: files that appear whole, locks, a cache folder, limits, guarded maps."""
