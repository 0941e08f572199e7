"""Small clip caches, and what they must serve."""

import numpy as np

from caching.cache_building import complete_cache
from caching.clip_cache import CacheSettings, ClipCache
from clips.preprocessing import Preprocessing
from videos.decoding import probe_video, read_frames
from videos.folder import VideoFolder
from videos.frame_selection import official_strip
from videos.resizing import Region, resize_crop, to_uint8

SIZE = (32, 40)
PREPROCESSING = Preprocessing(clip_len=4, resize_size=SIZE, crop_size=(28, 28))
SETTINGS = CacheSettings(PREPROCESSING)


def open_cache(root, cache_dir, settings=SETTINGS):
    files = VideoFolder(root)
    cache = ClipCache(files, settings, settings.folder(cache_dir, root))
    complete_cache(cache, 0)
    return cache


def shard_of(cache):
    (shard,) = cache.folder.glob("*.shard")
    return shard


def read_frames_of(cache, video, indices, region=None):
    region = region or Region(0, 0, *cache.settings.preprocessing.resize_size)
    clip = np.empty((len(indices), region.height, region.width, 3), np.uint8)
    cache.read_into(clip, video, np.array(indices), region)
    return clip


def expected_frames(path, indices, size=SIZE):
    return np.stack([to_uint8(resize_crop(frame.numpy(), size)) for frame in read_frames(path, indices)])


def assert_serves_the_videos(cache):
    assert not len(cache.missing) and not cache.damage
    for video in range(len(cache.files)):
        info = probe_video(cache.files.path(video))
        assert (cache.index.num_frames[video], cache.index.fps[video]) == (info.frames, info.fps)
        strip = official_strip(info.frames, info.fps, 4.0, 4).unique().tolist()
        assert np.array_equal(read_frames_of(cache, video, strip), expected_frames(cache.files.path(video), strip))
