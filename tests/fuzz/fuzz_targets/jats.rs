#![no_main]
osler_fuzz::parses!(jats);
