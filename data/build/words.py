"""The closed vocabulary of the tales: word lists only. Names are not here: `names.py` invents them."""

PLACES = """\
a village by the sea
a town behind the hills
a valley full of orchards
a house at the edge of the forest
a harbour of small boats
an old mill by the river
a street of crooked houses
a castle that nobody visited
a meadow with one tree
a hut under the mountain
a market town
a village where it always rained
a cottage near the marsh
a city of bridges
a camp of travelling players
a lighthouse on the rocks
a monastery on the hill
a village of weavers
a quiet corner of the kingdom
a land of long winters""".splitlines()

JOBS = """
baker miller shepherd weaver fisher potter tailor gardener smith carpenter painter singer sailor farmer
cook hunter clockmaker shoemaker teacher healer beekeeper ferryman lamplighter candlemaker storyteller
glassblower stonemason fiddler woodcutter innkeeper mapmaker bookbinder juggler goatherd basketmaker
""".split()

OBJECTS = """
key ring map drum lamp coin letter book whistle knife bell flute crown spoon candle button mirror
compass feather rope hammer necklace basket kettle purse hat glove scarf boot cup plate ladle lantern
needle thimble violin pipe shell stone box seal stamp scroll sword helmet shield bracelet brush comb
doll kite ball top marble pencil clock watch chain lock saw spade rake net oar anchor saddle
""".split()

COLOURS = """
red blue green yellow white black grey brown golden silver old new small large broken heavy round wooden
iron copper glass leather painted shiny rusty tiny long crooked dusty lucky
""".split()

PREPOSITIONS = """\
under
behind
in
beside
near
inside
on top of
below
next to""".splitlines()

_SPOTS = """
bed table chair barrel chest oven cupboard stove bench shelf wardrobe cradle sack jar basin trunk bucket
cart wheel ladder haystack woodpile fence gate well fountain statue bridge wall hedge rosebush oak
willow pine apple_tree pear_tree beehive henhouse stable boat pillow carpet curtain clock_tower chimney
staircase window door millstone anvil loom tent kennel drawer mattress flowerpot
""".split()
SPOTS = [word.replace("_", " ") for word in _SPOTS]

ROOMS = """
barn kitchen mill garden cellar attic tower chapel inn bakery school workshop library yard hall orchard
cave forest marketplace harbour meadow greenhouse bathhouse dairy shed
""".split()

ANIMALS = """
dog cat goat horse donkey hen rooster goose duck sheep cow pig rabbit mouse fox crow owl hedgehog
squirrel bear wolf otter frog swan pigeon parrot pony calf lamb badger
""".split()

FOODS = """
bread soup cheese apples pears plums honey cake porridge beans onions carrots nuts berries fish eggs
butter pancakes cherries pie milk cabbage pudding jam dumplings turnips mushrooms biscuits
""".split()

GLAD = """
glad happy proud cheerful merry hopeful grateful calm
""".split()

SAD = """
sad angry late tired worried afraid lonely ashamed silent cold hungry ill
""".split()

ADJECTIVES = """
kind quiet clever brave shy patient curious stubborn gentle honest lazy careful funny wise noisy poor
rich young old tall short cheerful
""".split()

WEATHER = """\
The rain fell all day.
A warm wind came from the south.
It was the first day of spring.
Snow lay on every roof.
The sun rose late and red.
Fog covered the road.
The night was full of stars.
There was thunder far away.
It was so hot that even the birds were silent.
The leaves were turning yellow.
The moon hung over the trees.
Clouds hurried across the sky.
The river had frozen in the night.
It was a bright and windy morning.
The evening smelled of hay.
A rainbow stood above the fields.
Not a leaf moved.
The puddles shone like glass.
It had been a dry summer.
The air smelled of smoke and apples.""".splitlines()

ENDINGS = """\
And so the day came to an end.
After that they all slept well.
And nobody ever spoke of it again.
That is the whole tale.
They laughed about it for years.
And the bells rang until morning.
In the end everyone went home.
And from that day on the door was never locked.
So it was, and so it stayed.
The stars came out, and it was quiet again.
And they lived in peace for many years.
That evening there was music and dancing.
They shared what was left and were content.
And if nobody has moved them, they sit there still.
Nobody knows what happened next.
Then the lamps were put out one by one.
And the next morning everything began again.""".splitlines()

VERBS_PAST = """
painted washed mended sold dropped polished borrowed lost found carried cleaned broke wrapped admired
weighed measured
""".split()

TIMES = """\
One morning
One evening
That day
In the afternoon
At noon
Before dawn
Some days later
Once
Late at night
On market day
After the harvest
In the autumn
At last
Meanwhile
On a Sunday
Long before winter
Every week
Twice that year""".splitlines()

ARRIVALS = """\
had come back
had written a letter
had sent a present
had won the race
had learned to read
had forgiven everyone
had promised to stay
had fallen asleep
had gone away
had broken the promise
had lost the way
had left without a word
had sung all night
had caught a cold
had told a lie
had found work""".splitlines()
