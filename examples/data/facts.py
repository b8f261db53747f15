"""What the example set knows: plain facts, polite talk, proverbs and verses whose authors died long ago."""

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "Norway": "Oslo", "Sweden": "Stockholm", "Denmark": "Copenhagen", "Finland": "Helsinki", "Poland": "Warsaw",
    "Austria": "Vienna", "Greece": "Athens", "Ireland": "Dublin", "Hungary": "Budapest", "Japan": "Tokyo",
    "China": "Beijing", "India": "New Delhi", "Egypt": "Cairo", "Kenya": "Nairobi", "Canada": "Ottawa",
    "Cuba": "Havana", "Peru": "Lima", "Chile": "Santiago", "Australia": "Canberra",
    "Switzerland": "Bern", "Turkey": "Ankara", "Mexico": "Mexico City", "Thailand": "Bangkok", "Iceland": "Reykjavik",
    "Belgium": "Brussels",
}  # fmt: skip

OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "light": "dark", "early": "late", "open": "closed",
    "young": "old", "full": "empty", "loud": "quiet", "happy": "sad", "wet": "dry", "soft": "hard",
    "near": "far", "high": "low", "rich": "poor", "strong": "weak", "sweet": "sour", "thick": "thin",
    "wide": "narrow", "deep": "shallow",
}  # fmt: skip

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

MONTH_LENGTHS = {"January": 31, "February": 28, "April": 30, "July": 31, "September": 30, "December": 31}

COLOURS = {
    "the sky on a clear day": "blue", "grass": "green", "snow": "white", "a ripe banana": "yellow",
    "a ripe tomato": "red", "coal": "black", "an orange": "orange", "a lime": "green", "an elephant": "gray",
    "chocolate": "brown",
}  # fmt: skip

LEGS = {"a dog": 4, "a spider": 8, "an ant": 6, "a hen": 2, "a snake": 0, "a crab": 10}

SUMS = ((2, 3), (4, 4), (7, 5), (10, 15), (9, 6), (20, 22), (8, 11), (30, 12), (50, 25), (13, 14))

DIFFERENCES = ((9, 4), (12, 7), (20, 5), (100, 1), (15, 8), (31, 30))

MEASURES = (
    ("How long is a marathon?", "A marathon is 42.195 km long, which is about 26 miles."),
    ("At what temperature does water boil?", "At sea level water boils at 100°C, or 212°F."),
    ("At what temperature does water freeze?", "Water freezes at 0°C, which is 32°F."),
    ("How many grams are in a kilogram?", "1 kg is 1,000 g."),
    ("How fast is light?", "Light travels about 300,000 km in a second."),
    ("How high is Mount Everest?", "Mt. Everest is about 8,849 m high."),
    ("How many minutes are in a day?", "A day has 1,440 minutes."),
    ("How many seconds are in an hour?", "An hour has 3,600 seconds."),
    ("How far away is the Moon?", "On average, the Moon is 384,400 km away."),
    ("How much of the Earth is covered by water?", "About 71% of the Earth's surface is covered by water."),
)

HISTORY = (
    ("When did the first people walk on the Moon?", "The first people walked on the Moon on July 20, 1969."),
    ("When was the first printed edition of Newton's Principia?", "Newton's Principia was first printed in 1687."),
    ("When did the Second World War end in Europe?", "In Europe, World War II ended on 8 May 1945."),
    ("When was the battle of Hastings?", "The battle of Hastings was fought in 1066."),
    ("When did Columbus cross the Atlantic?", "Columbus crossed the Atlantic in 1492."),
    ("When did the Berlin Wall fall?", "The Berlin Wall fell on November 9, 1989."),
    ("When did Jane Austen publish Emma?", "Jane Austen published Emma in 1815."),
    ("When did the French Revolution begin?", "The French Revolution began in 1789."),
)

DEFINITIONS = {
    "a library": "a place where you can read and borrow books",
    "a river": "a stream of water that flows to a lake or to the sea",
    "a bakery": "a shop where bread and cakes are made and sold",
    "a noun": "a word for a person, a place, a thing or an idea",
    "a verb": "a word that says what someone or something does",
    "an island": "a piece of land with water all around it",
    "a triangle": "a shape with three sides and three corners",
    "a thermometer": "a device that shows how warm something is",
    "a volcano": "a mountain through which melted rock comes up from inside the Earth",
    "a desert": "a dry place where very little rain falls",
    "an orchestra": "a large group of people who play music together",
    "a recipe": "a list of steps that tells you how to cook something",
    "a telescope": "a tube with lenses or mirrors that makes far things look near",
    "a harbor": "a sheltered place where ships can stay",
    "a neighbor": "a person who lives next to you",
    "a calendar": "a table of the days, weeks and months of a year",
    "photosynthesis": "how plants turn sunlight, water and air into sugar and oxygen",
    "gravity": "the force that pulls things toward the ground",
    "an echo": "a sound that comes back to you from a wall or a mountain",
    "a proverb": "a short old saying that gives advice",
}

SMALL_TALK = (
    ("Hello!", "Hello! It is nice to hear from you."),
    ("Good morning.", "Good morning! I hope you slept well."),
    ("How are you?", "I am doing well, thank you. And how are you?"),
    ("Thank you very much.", "You are very welcome."),
    ("Good night.", "Good night, and sleep well."),
    ("Can you help me?", "Of course. Tell me what you need."),
    ("What can you do?", "I can answer simple questions and talk with you."),
    ("I am a little tired.", "Then a short rest may do you good."),
    ("I am bored.", "How about a walk, a book, or a riddle?"),
    ("I had a great day.", "That is lovely to hear. What was the best part?"),
    ("I am nervous about tomorrow.", "That is understandable. Breathe slowly, and take one step after the other."),
    ("Could you say that again?", "Sure. What would you like me to repeat?"),
    ("I didn't understand you.", "I am sorry. Let me try to say it in another way."),
    ("Are you there?", "Yes, I am here and I am listening."),
    ("Please be quiet for a moment.", "All right. Just call me when you need me."),
    ("It is my birthday today.", "Happy birthday! I wish you a wonderful year."),
    ("See you later.", "See you later! Take care."),
    ("Do you like music?", "I can't hear it as you do, but I like to talk about it."),
    ("What should I drink in the morning?", "A glass of water is a good start, and then tea or coffee if you like."),
    ("Should I take an umbrella?", "If the clouds look dark, I would take one."),
)

PROVERBS = (
    ("A stitch in time", "saves nine"),
    ("The early bird", "catches the worm"),
    ("Actions speak", "louder than words"),
    ("All that glitters", "is not gold"),
    ("Better late", "than never"),
    ("Birds of a feather", "flock together"),
    ("Every cloud", "has a silver lining"),
    ("Look before", "you leap"),
    ("Many hands", "make light work"),
    ("Practice", "makes perfect"),
    ("Still waters", "run deep"),
    ("When the cat is away,", "the mice will play"),
)

VERSES = (
    ("William Blake", "Tyger Tyger, burning bright,\nIn the forests of the night"),
    ("William Wordsworth", "I wandered lonely as a cloud\nThat floats on high o'er vales and hills"),
    ("Emily Dickinson", "Hope is the thing with feathers\nThat perches in the soul"),
    ("Lewis Carroll", "How doth the little crocodile\nImprove his shining tail"),
    ("Christina Rossetti", "Who has seen the wind?\nNeither I nor you"),
    ("Robert Louis Stevenson", "How do you like to go up in a swing,\nUp in the air so blue?"),
)
