#![no_main]
osler_fuzz::parses!(cnxml);
