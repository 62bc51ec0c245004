-- A language that few speak is found without reading what the others say, in segments as in passages.
CREATE INDEX segments_language ON segments (language);
