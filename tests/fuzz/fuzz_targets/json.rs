#![no_main]
osler_fuzz::reads!(json);
