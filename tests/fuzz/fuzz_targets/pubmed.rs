#![no_main]
osler_fuzz::reads!(pubmed);
