#![no_main]
osler_fuzz::parses!(bmc);
