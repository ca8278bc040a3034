"""The main job: search, surrogate and executor joined into one resumable live search in a working directory."""
