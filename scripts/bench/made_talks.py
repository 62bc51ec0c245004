"""Made talks with known answers: short recordings of people who tell things, as transcripts with times.

Everything comes from one seed. A talk has a subject; most of it is what people say around the point (fillers, with words
of the subject), and some of it are facts: who did what, where, when, how many. A subject has forms for its facts, and
every talk on it fills them with other names, places, things and numbers, so that a library of two thousand talks has
hundreds of facts that differ in one detail: each is a distractor for the others.

A value may have two names, "accordion|squeezebox": the first is said, the second is asked for. A question names enough of
its fact that only this one answers it (checked over the whole library), in other words and another order, and mostly
without the person's name. Subjects with an even number are for tuning, the others for testing: no question, sentence
form or pair of synonyms is in both.
"""
import json
import random
import re

FIRST = """Marta Ilya Wanda Tomas Ines Gregor Paloma Anselm Yusra Kofi Linnea Bruno Odile Ravi Saskia Emeka Noor Viktor Hanne Luca
Amara Felix Greta Hamid Iris Jonas Keiko Leo Mina Nils Olga Pablo Quentin Rosa Stefan Thea Umar Vera Willem Xenia Yannis Zora
Agnes Boris Clara Dario Elif Farid Gina Hugo Ida Jakob Karim Lotte Malik Nadia Oscar Petra Rafael Selma""".split()
LAST = """Quill Brandt Okafor Lindqvist Moreau Tanaka Castellano Feldman Novak Achterberg Rahimi Pereira Sandoval Whitlock Jansen
Kowalski Dubois Haddad Eriksen Marchetti Osei Petrov Rasmussen Salazar Thorne Ulrich Vasquez Winther Yilmaz Zielinski Abbott
Becker Corrigan Delgado Ellison Faulkner Grimaldi Hartley Ivanova Juarez Kessler Lachance Mbeki Nakamura Ortega Pohl Rossi
Sorensen Trevisan Underhill Voss Wyatt Arkwright Bellamy Crowther""".split()
CITY = """Lisbon Ghent Tallinn Valparaiso Bergen Kraków Porto Adelaide Cork Trieste Basel Antwerp Gdansk Marseille Dundee Turku
Salzburg Leipzig Cardiff Bilbao Aarhus Nantes Haifa Izmir Osaka Bristol Halifax Utrecht Zagreb Riga""".split()
NUMBER = """twelve fourteen seventeen nineteen twenty-three twenty-six thirty-one thirty-four thirty-eight forty-two forty-seven
fifty-three fifty-eight sixty-four sixty-nine seventy-two seventy-six eighty-one eighty-five ninety-three""".split()
YEAR = [f"nineteen {a}{b}" for a in ("sixty", "seventy", "eighty", "ninety") for b in ("-one", "-three", "-four", "-six", "-eight")]
MONTH = "January February March April June July August September October November".split()
DAY = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

COMMON = {"first": FIRST, "last": LAST, "city": CITY, "n": NUMBER, "year": YEAR, "month": MONTH, "day": DAY}

# Each: name, slots, statements, a question for each of these, words of the subject for the fillers.
SUBJECTS = [
 ("instruments", {
   "thing": ["accordion|squeezebox", "cello", "trumpet|horn", "harmonica|mouth organ", "violin|fiddle", "drum kit|set of drums"],
   "state": ["broken|damaged", "old|antique", "stolen|looted", "painted|decorated", "tiny|miniature"],
   "place": ["harbour market|market by the port", "flea market|second-hand market", "auction house|auction", "church basement|cellar of a church", "railway museum|train museum"]},
  ["{first} {last} paid {n} euros for a {state} {thing} at the {place} in {city}.",
   "At the {place} in {city}, {first} {last} bought a {state} {thing} for {n} euros."],
  ["how much did somebody spend on the {state~} {thing~} at the {place~} in {city}",
   "price of a {state~} {thing~} purchased in {city} at a {place~}"],
  "melody tune string bow tuning rehearsal orchestra"),
 ("bees", {
   "trouble": ["mites|parasites", "wasps", "damp|moisture", "a fungus|mould", "hornets"],
   "crop": ["heather", "clover", "acacia|acacia trees", "lavender", "sunflowers|sunflower"],
   "remedy": ["thyme oil|herbal extract", "icing sugar|powdered sweetener", "a smaller entrance|narrowed doorway", "formic vapour|acid fumes", "moving the hives uphill|relocating to higher ground"]},
  ["{first} {last} lost {n} hives to {trouble} and saved the rest with {remedy}.",
   "After {trouble} destroyed {n} hives near {city}, {first} {last} tried {remedy} and it worked.",
   "The honey from {crop} near {city} sold out by {month}, says {first} {last}."],
  ["how did {last} protect the remaining colonies from {trouble~}",
   "which cure helped {last} against {trouble~} in bee colonies around {city}",
   "when was {last} out of stock of the {crop~} honey from {city}"],
  "hive queen comb smoke swarm honey frame"),
 ("bridges", {
   "kind": ["suspension bridge|hanging bridge", "footbridge|bridge for pedestrians", "railway viaduct|train bridge", "drawbridge|lifting bridge", "stone arch bridge|old bridge of stone"],
   "cause": ["corrosion|rust", "a barge collision|a ship running into it", "a flood|high water", "bad welding|poor welds", "an earthquake|tremors"],
   "fix": ["carbon straps|fibre bands", "new bearings|replacement supports", "a second pylon|an extra tower", "deeper foundations|longer piles"]},
  ["The {kind} in {city} was closed in {year} because of {cause}.",
   "Engineers led by {first} {last} repaired the {kind} in {city} with {fix} after {cause}."],
  ["why did they shut the {kind~} at {city}",
   "what was used to mend the {kind~} of {city} once {cause~} had struck"],
  "load span concrete deck cable inspection traffic"),
 ("coffee", {
   "origin": ["Ethiopia", "Guatemala", "Sumatra", "Rwanda", "Colombia", "Yemen"],
   "note": ["blueberries|dark fruit", "smoke|campfire", "jasmine|white flowers", "caramel|burnt sugar", "lemon peel|citrus zest"],
   "way": ["a paper filter|pour-over", "a moka pot|a stovetop pot", "cold water overnight|cold brewing", "an espresso machine|espresso", "a siphon|a vacuum pot"]},
  ["The beans from {origin} taste of {note} when {first} {last} brews them with {way}.",
   "{first} {last} opened a roastery in {city} with {n} sacks from {origin}."],
  ["flavour of {origin} coffee made by {way~} according to {last}",
   "how many bags of {origin} beans did the {city} roaster start with"],
  "roast grind cup aroma bitter crema water"),
 ("astronomy", {
   "body": ["comet", "asteroid|minor planet", "double star|binary star", "supernova|exploding star", "moon of Saturn|moon near Saturn"],
   "tool": ["a homemade telescope|a self-built telescope", "radio dishes|antennas", "binoculars|field glasses", "old photographic plates|old photographs", "a balloon camera|a camera on a balloon"],
   "site": ["the roof of a school|a school roof", "a desert plateau|the high desert", "a lighthouse", "an abandoned quarry|an old quarry"]},
  ["{first} {last} discovered a {body} with {tool} from {site} in {year}.",
   "From {site} near {city}, {first} {last} followed the {body} for {n} nights using {tool}."],
  ["who found the {body~} by means of {tool~} at {site~}",
   "for how long was a {body~} tracked from {site~} close to {city}"],
  "orbit light mirror sky brightness dust galaxy"),
 ("bread", {
   "loaf": ["rye loaf|rye bread", "baguette|French bread", "flatbread|flat bread", "brioche", "sourdough|sourdough bread"],
   "mistake": ["too much salt|oversalting", "a cold oven|insufficient heat", "stale yeast|dead leavening", "wet flour|damp meal", "rushing the dough|hurrying the rise"],
   "trick": ["steam|water vapour", "a cast-iron pot|heavy metal casserole", "an overnight rest|long night's proof", "a spoon of honey|little sweetness"]},
  ["{first} {last} ruined {n} batches of {loaf} with {mistake}.",
   "The secret of the {loaf} in {city} is {trick}, {first} {last} told us."],
  ["what spoiled the {loaf~} that {last} was making",
   "how does the baker from {city} get such a good {loaf~}"],
  "dough crust oven flour knead crumb bake"),
 ("council", {
   "project": ["swimming pool|public baths", "tram line|light rail", "skate park|skateboard park", "library roof|roof of the library", "playground|children's area", "parking garage|car park"],
   "reason": ["a missing permit|lack of authorisation", "rising steel prices|costlier metal", "a rare bat colony|protected flying mammals", "a neighbour's lawsuit|legal action by a resident", "a budget hole|shortage of funds"],
   "result": ["delayed until|postponed to", "cancelled in|scrapped in", "approved in|given green light in"]},
  ["The {project} in {city} was {result} {month} because of {reason}.",
   "Councillor {last} asked for {n} thousand more for the {project} in {city}."],
  ["why was the {city} {project~} {result~} {month}",
   "extra money that {last} demanded to build the {project~}"],
  "vote motion mayor tax committee meeting district"),
 ("dogs", {
   "breed": ["collie|sheepdog", "dachshund|sausage dog", "greyhound|racing dog", "poodle", "mastiff|big guard dog"],
   "habit": ["chewing shoes|biting shoes to pieces", "howling at night|making noise at night", "chasing bicycles|running after cyclists", "stealing sandwiches|stealing food", "digging up tulips|digging holes in the flower beds"],
   "cure": ["a clicker|sound device for training", "long walks at dawn|early morning exercise", "a second dog|a canine companion", "frozen carrots|icy vegetables"]},
  ["{first} {last} stopped the {breed} from {habit} with {cure}.",
   "In {city} a {breed} kept {habit} for {n} days until {first} {last} tried {cure}."],
  ["how to break a {breed~} of {habit~}, as {last} did",
   "{city} {breed~} with the bad custom of {habit~}: what helped"],
  "leash bark puppy treat tail walk vet"),
 ("volcanoes", {
   "sign": ["dead fish|lifeless marine animals", "cracks in the road|split asphalt", "a smell of sulphur|rotten egg odour", "swarms of small quakes|many minor tremors", "a warm lake|heated water"],
   "place": ["the fishing village|a village on the coast", "the vineyard|wine estate", "the ski hut|a mountain hut", "the airport|airfield"],
   "means": ["by ferry|by boat", "on foot|walking", "in school buses|by bus", "by helicopter|by air"]},
  ["Before the eruption near {city}, {first} {last} noticed {sign} at {place}.",
   "{n} people were taken out of {place} {means} when the mountain woke up in {year}, said {first} {last}."],
  ["which omen did {last} observe in {place~} ahead of the volcano's outbreak",
   "evacuation of {place~} {means~}: how many inhabitants, from {last}'s report"],
  "lava ash crater magma slope gas rock"),
 ("chess", {
   "opening": ["Sicilian|Sicilian defence", "King's Gambit", "Caro-Kann", "Queen's Indian", "Dutch"],
   "blunder": ["lost a rook|dropped a castle", "forgot the clock|ran out of time", "allowed a fork|let two pieces be attacked at once", "touched the wrong piece|handled another figure by accident"],
   "level": ["schoolgirl|pupil", "taxi driver|cab driver", "grandmaster", "retired nurse|former nurse"]},
  ["In the {opening} against a {level}, {first} {last} {blunder} after {n} moves.",
   "A {level} from {city} beat {first} {last} with the {opening} in {year}."],
  ["what went wrong for {last} playing the {opening~} versus the {level~}",
   "which {level~} of {city} defeated a strong opponent in the {opening~}"],
  "board pawn queen endgame knight tournament check"),
 ("batteries", {
   "material": ["sodium", "zinc", "silicon", "iron", "vanadium"],
   "use": ["scooters|small motorbikes", "hospital beds|beds in hospitals", "a ferry|a ship", "farm robots|farming machines", "street lamps|street lights"],
   "flaw": ["they swell|growing thicker", "they leak|losing fluid", "they freeze|stiff in the cold", "they charge slowly|taking ages to fill"]},
  ["The {material} cells for {use} have one problem: {flaw}, says {first} {last} from {city}.",
   "After {n} months of testing {material} batteries in {use}, {first} {last} gave up because {flaw}."],
  ["drawback of {material~} accumulators in {use~} mentioned by the expert from {city}",
   "why {last} abandoned the trial of {material~} power packs for {use~}"],
  "charge cell voltage heat cycle energy storage"),
 ("dinosaurs", {
   "bone": ["jaw|jaw bone", "tail spine|tail", "claw", "egg shell|egg", "tooth"],
   "finder": ["a mushroom picker|somebody picking mushrooms", "a road crew|road workers", "two twins on a school trip|children on a school trip", "a well digger|a man digging a well"],
   "stone": ["red sandstone|sandstone", "blue clay|clay", "chalk", "coal"]},
  ["{finder} found the {bone} in {stone} outside {city}, and {first} {last} dated it.",
   "The {bone} from {city} lay in {stone} for ages until {finder} dropped a tool on it in {month}, {first} {last} explained."],
  ["who came across a fossil {bone~} embedded in {stone~} near {city}",
   "in which layer was the prehistoric {bone~} that {finder~} reported to {last}"],
  "fossil layer skeleton museum dig brush species"),
 ("trains", {
   "goods": ["oranges|fruit", "marble|stone", "circus animals|animals for a circus", "newspapers|papers", "wine barrels|barrels of wine"],
   "event": ["derailed|came off the tracks", "got stuck in snow|trapped by a blizzard", "lost its last wagon|lost a carriage", "arrived a day early|came too early"],
   "line": ["the coastal line|the line along the coast", "the mountain line|the route through the mountains", "the night service|the night train", "the old mining track|a former mine railway"]},
  ["A train with {goods} {event} on {line} near {city} in {year}.",
   "{first} {last}, the driver on {line}, tells how the wagon of {goods} {event} one {day} in {month}."],
  ["freight of {goods~} that {event~} around {city}: when was it",
   "on what weekday did the load of {goods~} have its mishap on {line~}, as recalled by {last}"],
  "station signal engine platform carriage ticket rail"),
 ("gardens", {
   "pest": ["slugs|snails", "deer", "aphids|greenfly", "moles", "pigeons|doves"],
   "crop": ["strawberries|berries", "lettuce|salad", "pumpkins|squash", "peas", "roses"],
   "guard": ["coffee grounds|used brewing residue", "copper tape|reddish metal strips", "wool pellets|sheep hair grains", "a radio at night|nocturnal broadcasting", "human hair|barber shop sweepings"]},
  ["{first} {last} keeps {pest} off the {crop} with {guard}.",
   "In {city}, {guard} did nothing against {pest} on {crop}, and {first} {last} lost {n} plants."],
  ["what {last} puts out so that {pest~} spare the {crop~}",
   "failed attempt in {city} to shield {crop~} from {pest~}"],
  "soil seed compost bed root watering harvest"),
 ("medicine", {
   "illness": ["gout", "migraine|bad headaches", "asthma|breathing trouble", "insomnia|sleeplessness", "hay fever|pollen allergy", "sciatica|nerve pain in the leg"],
   "therapy": ["cherry juice|the juice of cherries", "a blindfold|covering the eyes", "singing lessons|learning to sing", "cold showers|cold water", "a new pillow|another pillow", "bee venom|bee poison"],
   "group": ["truck drivers|lorry drivers", "nuns|sisters in a convent", "dancers|ballet dancers", "firemen|firefighters", "students|university students"]},
  ["Doctor {last} treated {illness} in {n} {group} with {therapy}.",
   "Among {group} in {city}, {therapy} eased {illness} within weeks, reports doctor {last}."],
  ["{last}'s study of {illness~} and {therapy~}: number of participants",
   "does {therapy~} help {city} {group~} who suffer from {illness~}"],
  "patient dose trial symptom nurse pain clinic"),
 ("sailing", {
   "boat": ["catamaran|boat with two hulls", "dinghy|small boat", "schooner|sailing ship", "kayak|canoe", "raft"],
   "peril": ["a whale", "fog|mist", "a torn sail|a ripped sail", "pirates|sea robbers", "a leaking hull|a leak"],
   "rescue": ["a fishing crew|trawler men", "a cruise liner|holiday steamer", "the coast guard|maritime patrol", "his own stubbornness|sheer willpower"]},
  ["Because of {peril}, {first} {last} lost the {boat} off {city} after {n} days at sea.",
   "It was {rescue} that saved {first} {last} when {peril} stopped the {boat} in {month}."],
  ["how long had {last} been sailing the {boat~} before {peril~} ended the voyage",
   "who came to the aid of {last} in the {boat~} after meeting {peril~}"],
  "wind harbour wave anchor mast crew tide"),
 ("pottery", {
   "piece": ["teapot|pot for tea", "roof tile|tile for a roof", "vase", "oil lamp|lamp", "bathtub|tub"],
   "glaze": ["copper green|green", "ash grey|grey", "cobalt|blue", "ox blood|dark red", "tin white|white"],
   "fault": ["cracked in the kiln|split while firing", "stuck to the shelf|fused with its support", "lost its handle|grip fell off", "came out too small|shrank more than expected"]},
  ["The {glaze} {piece} that {first} {last} made {fault}.",
   "{first} {last} of {city} sold a {piece} in {glaze} for {n} hundred although it {fault}."],
  ["what happened to {last}'s {piece~} with the {glaze~} finish",
   "price of the flawed {glaze~} {piece~} by a {city} ceramicist"],
  "clay wheel kiln glaze firing studio bowl"),
 ("radio", {
   "show": ["quiz|quiz show", "weather report|weather forecast", "cooking hour|cooking show", "crime drama|crime play", "farm news|news for farmers"],
   "mishap": ["a cat walked over the desk|a cat got on the desk", "the tape ran backwards|a tape was played backwards", "the guest fell asleep|a guest dozed off", "two hosts spoke at once|both hosts talked at the same time", "a fire alarm rang|the fire alarm went off"],
   "reply": ["letters of thanks|grateful mail", "angry calls|furious phone messages", "marriage proposals|offers to wed", "a fine|monetary penalty"]},
  ["During the {show} in {city}, {mishap}, and {first} {last} got {n} {reply}.",
   "{first} {last} remembers the {day} when {mishap} in the middle of the {show}."],
  ["audience reaction after {mishap~} in the {show~} from {city}",
   "broadcasting accident of {last}: {mishap~} during the {show~}, what day"],
  "studio microphone listener record signal host jingle"),
 ("film", {
   "genre": ["western|cowboy film", "musical|musical film", "horror film|scary film", "silent comedy|silent film", "documentary"],
   "prop": ["a rubber shark|a fake shark", "a real piano|a genuine piano", "paper snow|artificial snow", "a stuffed owl|a dead owl", "forty wigs|many wigs"],
   "critic": ["walked out|left early", "wept|cried", "laughed in the wrong place|laughed when nobody should", "wrote a poem|answered with a poem"]},
  ["For the {genre}, director {first} {last} needed {prop}, which cost {n} thousand.",
   "At the premiere of the {genre} in {city}, one critic {critic}, and {first} {last} kept {prop} as a souvenir."],
  ["how expensive was {prop~} for the {genre~} directed by {last}",
   "reviewer who {critic~} at the first showing of the {genre~} in {city}"],
  "scene camera script actor cinema shot studio"),
 ("mountains", {
   "gear": ["a borrowed rope|somebody else's rope", "wooden skis|old skis", "sandals|open shoes", "a paper map|a printed map", "an umbrella"],
   "weather": ["hail", "a thunderstorm|lightning and thunder", "thick fog|mist", "a heat wave|great heat", "fresh snow|new snow"],
   "end": ["turned back below the summit|retreated short of the top", "slept in a cave|spent the night in a cave", "lost a tent|lost their tent", "met a bear|came across a bear"]},
  ["With {gear} and in {weather}, {first} {last} {end} in {month}.",
   "{first} {last} from {city} climbed for {n} hours with {gear} and {end}."],
  ["how did the hike of {last} in {weather~} with {gear~} turn out",
   "{city} climber equipped with {gear~}: duration before they {end~}"],
  "peak ridge trail hut glacier valley climb"),
 ("libraries", {
   "book": ["atlas|book of maps", "cookbook|recipe book", "prayer book|book of prayers", "herbal|book on medicinal plants", "diary|journal"],
   "place": ["behind a radiator|near the heating", "in a piano stool|inside a musician's seat", "under the altar|below the church table", "in a bakery|at a bread shop", "on a tram|in a streetcar"],
   "mark": ["a pressed fern|a dried fern", "a lottery ticket", "a love letter|a letter from a lover", "burn marks|burnt spots", "a child's drawing|a drawing by a child"]},
  ["The lost {book} was found {place} in {city} with {mark} inside.",
   "{first} {last} returned the {book} {n} years late, and there was {mark} in it."],
  ["where did the missing {book~} from {city} with {mark~} turn up",
   "how overdue was the {book~} that {last} brought back with {mark~}"],
  "shelf catalogue reader loan page archive binding"),
 ("windpower", {
   "part": ["gearbox|transmission", "blade tip|end of a blade", "yaw motor|motor that turns it", "tower bolt|bolt of the tower", "transformer"],
   "cause": ["lightning|a lightning strike", "ice", "sand", "salt|salt water", "a software update|new software"],
   "loss": ["a week of power|seven days of output", "the whole season|all months of production", "half its value|fifty percent of the worth"]},
  ["{cause} wrecked the {part} of the turbine near {city} and cost {first} {last} {loss}.",
   "{first} {last} replaced {n} units of the {part} after {cause} in {year}."],
  ["what destroyed the {part~} on the windmill close to {city}",
   "number of spare {part~} installed by {last} following {cause~}"],
  "turbine rotor grid wind meter maintenance crane"),
 ("football", {
   "role": ["goalkeeper|keeper", "striker|forward", "captain|team leader", "referee|match official", "coach|trainer"],
   "deed": ["missed a penalty|failed from the spot", "scored from midfield|scored from far away", "was sent off|got a red card", "slept through the bus|missed the team bus", "broke a thumb|broke a finger"],
   "stage": ["cup final|final of the cup", "friendly|friendly game", "derby", "semifinal"]},
  ["In the {stage} in {city}, {role} {first} {last} {deed}.",
   "{role} {last} {deed} in the {stage} and paid a fine of {n} hundred."],
  ["who {deed~} at the {stage~} of {city}",
   "penalty fee for the {role~} that {deed~} in the {stage~}, {last}"],
  "match team goal pitch league fans half"),
 ("weaving", {
   "cloth": ["carpet|rug", "flag|banner", "wedding dress|bridal gown", "fishing net|net for fishing", "sail"],
   "fibre": ["nettle|nettles", "silk", "goat hair|goat wool", "recycled plastic|plastic waste", "banana stems|banana plants"],
   "dye": ["onion skins|the peel of onions", "walnut shells|walnuts", "beetroot|beet juice", "rust|rusty iron", "lichen|moss"]},
  ["{first} {last} wove a {cloth} from {fibre} and coloured it with {dye}.",
   "The {cloth} of {fibre} took {n} weeks, and the dealer in {city} asked {first} {last} for another one."],
  ["which material did {last} take for the {cloth~} tinted using {dye~}",
   "time needed to make the {fibre~} {cloth~} wanted by the {city} merchant"],
  "loom thread pattern warp wool shuttle spin"),
 ("school", {
   "subject": ["geometry|maths", "chemistry", "Latin", "sports|gym", "music"],
   "method": ["with card games|by playing cards", "outdoors|in the open air", "with puppets|using puppets", "by baking cakes|by baking", "in total silence|without a word"],
   "effect": ["marks went up|grades improved", "parents complained|mothers and fathers protested", "nobody was late|everybody came on time", "the class doubled|twice as many pupils came"]},
  ["{first} {last} taught {subject} {method}, and {effect}.",
   "At a school in {city}, {n} children learned {subject} {method}, says {first} {last}."],
  ["result of giving {subject~} lessons {method~}, tried by teacher {last}",
   "how many pupils in {city} studied {subject~} {method~}"],
  "pupil lesson homework teacher exam classroom desk"),
 ("birds", {
   "bird": ["stork", "kingfisher", "owl", "swift", "crane"],
   "nest": ["on a chimney|on top of a chimney", "in a traffic light|inside traffic lights", "under a bridge|below a bridge", "in an old boot|inside a boot", "on a crane cabin|on the cabin of a building crane"],
   "food": ["frogs|amphibians", "shrimp|small crustaceans", "beetles|hard-shelled insects", "leftover chips|discarded fries"]},
  ["A {bird} nested {nest} in {city} and raised its young on {food}.",
   "{first} {last} counted {n} pairs of {bird} that nested {nest} this {month}."],
  ["what did the {bird~} with its home {nest~} feed on",
   "census by {last} of {bird~} breeding {nest~}"],
  "wing feather song migration egg flock binocular"),
 ("software", {
   "system": ["payroll program|salary program", "booking site|reservation site", "tax portal|tax website", "lift controller|elevator controller", "hospital database|database of the hospital"],
   "bug": ["a leap day|the leap year", "an apostrophe in a name|an apostrophe", "a full disk|a disk without space", "two clocks that disagree|clocks out of step", "an expired certificate|an old certificate"],
   "fix": ["deleting one line|removing a single statement", "a restart|switching it off and on", "rolling back|returning to the former version", "a phone call to the vendor|ringing the supplier"]},
  ["{bug} brought down the {system} in {city}, and {first} {last} fixed it by {fix}.",
   "It took {first} {last} {n} hours to see that {bug} had stopped the {system}."],
  ["root cause of the {system~} outage at {city}",
   "how long was {last} searching for the failure of the {system~} due to {bug~}"],
  "server code test release log backup network"),
 ("markets", {
   "stock": ["a shoe maker|shoe company", "a toy company|maker of toys", "an airline|airline", "a brewery|beer company", "a bicycle firm|bike maker"],
   "event": ["a strike|a walkout", "a scandal over bribes|corruption affair", "a product recall|a recall", "a surprise dividend|an unexpected dividend", "a merger"],
   "move": ["fell by|dropped by", "rose by|gained", "swung by|fluctuated by"]},
  ["After {event}, shares of {stock} from {city} {move} {n} percent.",
   "{first} {last} sold everything in {stock} one {day} before {event}."],
  ["how far did the {city} {stock~} move on the exchange following {event~}",
   "when did {last} get rid of the holdings in the {stock~} ahead of {event~}"],
  "share profit bank price investor trade bond"),
 ("archaeology", {
   "find": ["a bronze mirror|a mirror of bronze", "a child's shoe|the shoe of a child", "dice", "a mosaic of fish|a fish mosaic", "a jar of honey|a pot of honey"],
   "site": ["a car park|parking lot", "a monastery garden|the garden of a monastery", "a subway tunnel|a metro tunnel", "a well", "a vineyard"],
   "owner": ["a Roman soldier|legionary", "a merchant's widow|the widow of a merchant", "a Viking", "a court jester|a jester"]},
  ["Under {site} in {city}, {first} {last} dug up {find} that belonged to {owner}.",
   "{find} lay {n} metres below {site}, and {first} {last} thinks it was the property of {owner}."],
  ["whose was {find~} unearthed beneath {site~} of {city}",
   "depth at which {last} excavated {find~} of {owner~}"],
  "trench shard ruin century digging coin grave"),
 ("theatre", {
   "play": ["Hamlet", "Faust", "a puppet play|a puppet show", "a Greek tragedy|an ancient tragedy", "an operetta"],
   "trouble": ["the curtain caught fire|the curtain burned", "the lead lost his voice|the main actor lost his voice", "the power failed|the lights went out", "a goat ate the script|a goat got the script", "the stage flooded|the stage was under water"],
   "rescue": ["by candlelight|with burning wax", "in sign language|with gestures of the deaf", "in the street|outdoors on the pavement", "with half the cast|few performers only"]},
  ["When {trouble} in {city}, {first} {last} went on with {play} {rescue}.",
   "{n} people stayed for {play} although {trouble}, {first} {last} recalls."],
  ["how was {play~} performed at {city} once {trouble~}",
   "spectators that remained with {last} for {play~} in spite of {trouble~}"],
  "stage role rehearsal applause costume audience act"),
 ("glaciers", {
   "probe": ["a sonar sledge|a sledge with sonar", "painted stones|coloured stones", "a hot water drill|drilling with hot water", "dye in a stream|colour in the stream", "a wooden pole|a pole of wood"],
   "surprise": ["a hidden lake|a lake nobody knew", "a wrecked plane|a crashed plane", "ancient pollen|old pollen", "a warm spring|a hot spring", "a mammoth tusk|the tusk of a mammoth"],
   "base": ["a tent camp|tents", "a weather hut|a weather station", "an old whaling station|a former whaling station", "a research ship|a research vessel"]},
  ["With {probe}, {first} {last} found {surprise} {n} metres under the ice.",
   "Living in {base}, {first} {last} of {city} used {probe} and came home with proof of {surprise}."],
  ["what lay below the glacier that {last} examined with {probe~}",
   "how was {surprise~} detected by the {city} scientist staying in {base~}"],
  "ice snow melt core crevasse flow temperature"),
 ("perfume", {
   "scent": ["rain on stone|wet stone", "burnt orange|burnt oranges", "old books|old paper", "pine tar|pine resin", "cut grass|mown grass"],
   "client": ["a hotel", "an opera singer|a singer at the opera", "a car maker|a car company", "a cheese shop|a shop for cheese", "a bishop"],
   "defect": ["it faded in an hour|vanished quickly", "it stained silk|left spots on fabric", "it drew wasps|attracted insects", "it made people sneeze|irritated noses"]},
  ["The perfume of {scent} that {first} {last} mixed for {client} had a fault: {defect}.",
   "{first} {last} of {city} tried {n} recipes before {client} accepted the smell of {scent}."],
  ["what was bad about the {scent~} fragrance created for {client~}",
   "attempts the {city} perfumer required until {client~} liked the {scent~} odour"],
  "nose bottle note essence alcohol blend oil"),
]

OPENERS = """So let me begin with something that people often get wrong. | Welcome back, and thank you for all the messages since last time. |
Today I want to talk about {a} and {b}, because somebody asked. | Okay, we are recording, so let us get going. | I have been thinking about {a} all week. |
Before we start, a word about {a}. | This is part {n} of our little series, and it is about {a}. | Good evening from {city}, where it is far too warm for {month}.""".split("|")
FILLERS = """And that is really the point about {a}, it never does what you expect. | I asked around, and nobody could tell me why {a} matters so much. |
You know, when I was young, {a} was something for other people. | There is a story about {b} that I will tell another time. |
If you look closely at {a}, you begin to see {b} everywhere. | People write to me about {a} almost every {day}. | I had notes on my desk about {b} and I lost all of them. |
Now, some of you will say that {a} is only a matter of patience. | My neighbour says the same thing about {b}. | Let us come back to {a} in a minute. |
It sounds simple, but {b} takes years. | That was in {year}, if I remember it well. | I would not trust anybody who is too sure about {a}. | We tried {a} first, then {b}, then both at once. |
{first} always laughed when I said that. | The first rule of {a} is to wait, and the second one is to wait longer. | I have a friend called {first} who does nothing but {b}. |
On a {day} in {month} you can watch it from the window. | Honestly, the price of {b} is a scandal. | The room was full, and every one of them had an opinion on {a}. |
So what do you do with {b} when it is raining. | I think that is what people forget about {a}. | Somebody sent me a picture of {b}, and it made my day. |
We will get to the questions later, I promise. | It is a bit like {b}, only slower. | And then, of course, nothing happened for a long while. | That is the part I like best. |
You can read about {a} for hours and still know nothing about {b}. | In {city} they do it the other way round. | I do not want to sound bitter about {a}, but there it is. |
The trouble with {b} is that it looks so easy. | Take {a}, for example. | Give it a week and then look at {b} again. | She told me that over lunch, between two phone calls. | Well, anyway.""".split("|")
CLOSERS = """That is all for today, thank you for listening. | If you know more about {a}, write to me. | Next time we will look at {b}. | See you on {day}.""".split("|")

PAUSE_MS, WORD_MS = 350, 390


def sides(value):
    said, _, asked = value.partition("|")
    return said, asked or said


class Maker:
    def __init__(self, seed):
        self.rng = random.Random(seed)

    def values(self, slots):
        pick = {name: self.rng.choice(values) for name, values in (COMMON | slots).items()}
        said = {name: sides(value)[0] for name, value in pick.items()}
        asked = {name + "~": sides(value)[1] for name, value in pick.items()}
        return said, said | asked

    def fill(self, template, words):
        a, b = self.rng.sample(words, 2)
        said, _ = self.values({})
        return template.strip().format(a=a, b=b, **said)


def fill(template, values):
    text = re.sub(r"\{(\w+~?)\}", lambda m: values[m[1]], template)
    return text[0].upper() + text[1:]


def make(seed, items=2000):
    """(talks, facts): a talk is {"name", "title", "channel", "published_at", "sentences": [(start_ms, end_ms, text)]}, a fact
    {"talk", "start_ms", "subject", "text", "question", …}; no question where another fact would answer it as well."""
    maker = Maker(seed)
    rng = maker.rng
    talks, facts = [], []
    for number in range(items):
        index = number % len(SUBJECTS)
        name, slots, statements, questions, words = SUBJECTS[index]
        words = words.split()
        sentences, at = [maker.fill(rng.choice(OPENERS), words)], []
        for _ in range(rng.choice([1, 2, 2, 3])):
            sentences += [maker.fill(rng.choice(FILLERS), words) for _ in range(rng.randint(2, 5))]
            said, both = maker.values(slots)
            form = rng.randrange(len(statements))
            at.append((len(sentences), form, both))
            sentences.append(fill(statements[form], said))
        sentences += [maker.fill(rng.choice(FILLERS), words) for _ in range(rng.randint(1, 4))]
        sentences.append(maker.fill(rng.choice(CLOSERS), words))
        clock, timed = rng.randint(0, 4000), []
        for sentence in sentences:
            length = len(sentence.split()) * (WORD_MS + rng.randint(-60, 60))
            timed.append((clock, clock + length, sentence))
            clock += length + PAUSE_MS + (rng.randint(0, 1500) if rng.random() < 0.2 else 0)
        talks.append({"name": f"talk-{number:04}", "title": f"{name.capitalize()}, part {number // len(SUBJECTS) + 1}",
                      "channel": f"{rng.choice(LAST)} on {name}", "published_at": f"20{rng.randint(18, 26)}-{rng.randint(1, 9):02}-{rng.randint(1, 28):02}",
                      "sentences": timed})
        for place, form, both in at:
            names = {slot: both[slot] for slot in re.findall(r"\{(\w+)\}", statements[form])}
            wanted = {slot: both[slot] for slot in re.findall(r"\{(\w+)~?\}", questions[form])}
            question = fill(questions[form], both)
            facts.append({"talk": number, "start_ms": timed[place][0], "subject": index, "text": timed[place][2],
                          "question": question[0].lower() + question[1:], "names": names, "wanted": wanted})
    by_subject = {}
    for fact in facts:
        by_subject.setdefault(fact["subject"], []).append(fact)
    for fact in facts:
        # A question that another fact answers as well is not asked.
        fits = [f for f in by_subject[fact["subject"]] if fact["wanted"].items() <= f["names"].items()]
        if fits != [fact]:
            fact["question"] = None
    return talks, facts


def write(talks, folder):
    """One file of JSON a talk, as `spoken import` reads it."""
    for talk in talks:
        media = {key: talk[key] for key in ("title", "channel", "published_at")} | {"language": "en"}
        segments = [{"start_ms": start, "end_ms": end, "text": text} for start, end, text in talk["sentences"]]
        (folder / f"{talk['name']}.json").write_text(json.dumps({"media": media, "segments": segments}))


def phrase(rng, fact, everything):
    """Five to eight words of the fact, one after the other, that are said nowhere else; none where there are none."""
    words = re.sub(r"[.,:;?!]", "", fact["text"]).split()
    for _ in range(20):
        length = rng.randint(5, 8)
        if len(words) < length:
            return None
        at = rng.randint(0, len(words) - length)
        candidate = " ".join(words[at:at + length])
        if everything.count(" " + candidate.lower() + " ") == 1:
            return candidate
    return None


def questions(talks, facts, seed, purpose, exact, paraphrased):
    """{"exact": [(query, fact)], "paraphrase": [...]}, of the subjects that are for `purpose`, "tune" or "test"."""
    rng = random.Random(f"{seed} {purpose}")
    parity = {"tune": 0, "test": 1}[purpose]
    ours = [f for f in facts if f["subject"] % 2 == parity]
    everything = "\n".join(" " + re.sub(r"[.,:;?!]", "", text).lower() + " " for t in talks for _, _, text in t["sentences"])
    rng.shuffle(ours)
    phrases = []
    for fact in ours:
        if len(phrases) == exact:
            break
        query = phrase(rng, fact, everything)
        if query:
            phrases.append((query, fact))
    rng.shuffle(ours)
    asked = [(f["question"], f) for f in ours if f["question"]][:paraphrased]
    return {"exact": phrases, "paraphrase": asked}
