"""A whole audit without a hub, a GPU or private data: a real model, a made-up private corpus, one command."""
