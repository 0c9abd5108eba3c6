//! mgnt-tokenizer
