#![no_main]
osler_fuzz::reads!(wikipedia);
