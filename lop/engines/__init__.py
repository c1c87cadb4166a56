"""Support for pruned models in serving engines: llama.cpp (GGUF) and vLLM."""
