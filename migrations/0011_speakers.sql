-- Who speaks, where that is known: captions that people made name their speakers. May stay empty, so that adding it to a large
-- library takes no time.
ALTER TABLE segments ADD COLUMN speaker text;
