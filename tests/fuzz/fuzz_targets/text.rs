#![no_main]
osler_fuzz::parses!(text);
