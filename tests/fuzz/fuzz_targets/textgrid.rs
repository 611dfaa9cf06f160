#![no_main]
osler_fuzz::parses!(textgrid);
