"""What the text sets are filled with: word lists, facts, definitions and advice, all written by hand.

Each block is one string, wrapped anywhere: `;` parts its entries, `|`, `:`, `=` and `,` part what is inside them.
"""

# Two questions, the answer, the short right answer.
FACTS = """What color is the sky?|What color is the sky on a clear day?|The sky is blue on a clear day.|blue; How many
days are in a week?|How many days does a week have?|There are seven days in a week.|seven; How many months are in a
year?|How many months does a year have?|There are twelve months in a year.|twelve; How many hours are in a day?|How long
is a day in hours?|There are twenty four hours in a day.|twenty four; How many minutes are in an hour?|How long is an
hour in minutes?|There are sixty minutes in an hour.|sixty; How many seconds are in a minute?|How long is a minute in
seconds?|There are sixty seconds in a minute.|sixty; How many weeks are in a year?|About how many weeks does a year
have?|There are about fifty two weeks in a year.|fifty two; How many days are in a leap year?|How long is a leap year in
days?|A leap year has three hundred and sixty six days.|three hundred and sixty six; Which month is the shortest?|What
is the shortest month of the year?|February is the shortest month of the year.|February; How many seasons are there?|How
many seasons does a year have?|A year has four seasons.|four; Which season is the coldest?|What is the coldest
season?|Winter is the coldest season.|winter; Which season is the warmest?|What is the hottest season?|Summer is the
hottest season.|summer; Which planet do we live on?|What is the name of our planet?|We live on the planet Earth.|Earth;
What is the largest planet?|Which planet is the biggest of all?|Jupiter is the largest planet.|Jupiter; Which planet is
closest to the sun?|What planet lies nearest to the sun?|Mercury is the planet closest to the sun.|Mercury; Which planet
is called the red planet?|What is the red planet?|Mars is called the red planet.|Mars; Which planet is famous for its
rings?|What planet has the brightest rings?|Saturn is famous for its bright rings.|Saturn; How many planets go around
the sun?|How many planets are there in the solar system?|Eight planets go around the sun.|eight; What is the sun?|What
kind of thing is the sun?|The sun is a star.|star; What goes around the Earth?|What is the Earth's only natural moon
called?|The moon goes around the Earth.|moon; How long does the Earth take to go around the sun?|How long is one trip
around the sun?|The Earth takes one year to go around the sun.|one year; What holds us on the ground?|Which force pulls
things down?|Gravity pulls things down to the ground.|gravity; Who was the first person on the moon?|Who first walked on
the moon?|Neil Armstrong was the first person on the moon.|Neil Armstrong; Who was the first person in space?|Who was
the first human to fly in space?|Yuri Gagarin was the first person in space.|Yuri Gagarin; Where does the sun rise?|In
which direction does the sun come up?|The sun rises in the east.|east; Where does the sun set?|In which direction does
the sun go down?|The sun sets in the west.|west; What is the largest animal?|Which animal is the largest on Earth?|The
blue whale is the largest animal.|blue whale; What is the tallest animal?|Which animal is the tallest?|The giraffe is
the tallest animal.|giraffe; What is the fastest land animal?|Which animal runs the fastest?|The cheetah is the fastest
land animal.|cheetah; How many legs does a spider have?|How many legs are on a spider?|A spider has eight legs.|eight;
How many legs does an insect have?|How many legs do insects have?|An insect has six legs.|six; How many legs does a dog
have?|How many legs are on a dog?|A dog has four legs.|four; How many arms does an octopus have?|How many arms are on an
octopus?|An octopus has eight arms.|eight; How many hearts does an octopus have?|How many hearts are in an octopus?|An
octopus has three hearts.|three; What do bees make?|Which sweet food do bees make?|Bees make honey.|honey; What do cows
eat?|What is the main food of a cow?|Cows eat grass.|grass; What do pandas eat?|What is a panda's favorite food?|Pandas
eat bamboo.|bamboo; Where do fish live?|In what do fish live?|Fish live in water.|water; What do fish breathe with?|How
do fish breathe?|Fish breathe with gills.|gills; What do birds lay?|What do baby birds hatch from?|Birds lay eggs.|eggs;
What covers a bird?|What is a bird covered with?|Birds are covered with feathers.|feathers; What does a caterpillar
become?|What can a caterpillar turn into?|A caterpillar becomes a butterfly or a moth.|butterfly; What does a tadpole
become?|What can a tadpole grow into?|A tadpole becomes a frog.|frog; What is a baby dog called?|What do you call a
young dog?|A baby dog is called a puppy.|puppy; What is a baby cat called?|What do you call a young cat?|A baby cat is
called a kitten.|kitten; What is a baby cow called?|What do you call a young cow?|A baby cow is called a calf.|calf;
What is a baby sheep called?|What do you call a young sheep?|A baby sheep is called a lamb.|lamb; What is a baby horse
called?|What do you call a young horse?|A baby horse is called a foal.|foal; What is a baby kangaroo called?|What do you
call a young kangaroo?|A baby kangaroo is called a joey.|joey; What is a group of lions called?|What do you call a
family of lions?|A group of lions is called a pride.|pride; What is a group of wolves called?|What do you call many
wolves together?|A group of wolves is called a pack.|pack; What is a group of fish called?|What do you call many fish
together?|A group of fish is called a school.|school; Which bird cannot fly but swims well?|What black and white bird
swims but never flies?|A penguin swims well but cannot fly.|penguin; What is the largest bird?|Which bird is the
largest?|The ostrich is the largest bird.|ostrich; Which animal has a trunk?|What animal uses a trunk to drink?|An
elephant has a trunk.|elephant; Which animal has black and white stripes?|What animal looks like a striped horse?|A
zebra has black and white stripes.|zebra; Which animal carries its baby in a pouch?|What jumping animal has a pouch?|A
kangaroo carries its baby in a pouch.|kangaroo; Where do polar bears live?|In which part of the world do polar bears
live?|Polar bears live in the Arctic.|Arctic; What does a spider spin?|What do spiders make to catch flies?|A spider
spins a web.|web; Where do bees live?|What is the home of bees called?|Honey bees live in a hive.|hive; Where does a
bird raise its young?|What is a bird's home called?|A bird raises its young in a nest.|nest; Which animal gives us
wool?|Where does wool come from?|Wool comes from sheep.|sheep; Which animal gives us most of our milk?|Where does most
of our milk come from?|Most of our milk comes from cows.|cows; When are owls awake?|When do owls hunt?|Most owls hunt at
night.|night; Is a whale a fish?|What kind of animal is a whale?|A whale is a mammal, not a fish.|mammal; Is a bat a
bird?|What kind of animal is a bat?|A bat is a mammal that can fly.|mammal; How many eyes do people have?|How many eyes
does a person have?|A person has two eyes.|two; How many fingers are on one hand?|How many fingers does a hand have,
with the thumb?|A hand has five fingers, with the thumb.|five; How many toes do people have?|How many toes are on two
feet?|People have ten toes.|ten; What does the heart do?|What is the heart's job?|The heart pumps blood around the
body.|pumps blood; What do we breathe with?|Which part of the body takes in air?|We breathe with our lungs.|lungs; What
do we see with?|Which part of the body do we see with?|We see with our eyes.|eyes; What do we hear with?|Which part of
the body do we hear with?|We hear with our ears.|ears; What do we smell with?|Which part of the body do we smell
with?|We smell with the nose.|nose; What do we taste with?|Which part of the body do we taste with?|We taste with the
tongue.|tongue; What do we think with?|Which part of the body thinks?|We think with the brain.|brain; What is the
largest organ of the body?|Which organ of the body is the largest?|The skin is the largest organ of the body.|skin; What
is the hardest part of the body?|What covers the teeth?|The enamel of the teeth is the hardest part of the body.|enamel;
What holds up the body?|Which bones hold us up?|The skeleton holds up the body.|skeleton; What color is blood?|Which
color does blood have?|Blood is red.|red; How many teeth do most adults have?|How many teeth does a grown person
have?|Most adults have thirty two teeth.|thirty two; How many senses do people have?|How many main senses are
there?|People have five main senses.|five; Where is the knee?|Which part of the body is the knee in?|The knee is in the
middle of the leg.|leg; Where is the elbow?|Which part of the body is the elbow in?|The elbow is in the middle of the
arm.|arm; What is bread made from?|What is the main thing in bread?|Bread is made from flour and water.|flour; What is
cheese made from?|Which drink is cheese made from?|Cheese is made from milk.|milk; What is butter made from?|What do we
make butter from?|Butter is made from cream.|cream; What is wine made from?|Which fruit is wine made from?|Wine is made
from grapes.|grapes; What is a raisin made from?|Which fruit becomes a raisin?|A raisin is a dried grape.|grape; What is
chocolate made from?|Which beans do we make chocolate from?|Chocolate is made from cocoa beans.|cocoa beans; What is an
omelet made from?|What is the main thing in an omelet?|An omelet is made from eggs.|eggs; What are chips made
from?|Which vegetable are fries made from?|Fries are made from potatoes.|potatoes; Where do apples grow?|On what do
apples grow?|Apples grow on trees.|trees; Where do carrots grow?|Do carrots grow under the ground?|Carrots grow under
the ground.|under the ground; Where do potatoes grow?|Do potatoes grow on trees?|Potatoes grow under the ground.|under
the ground; What does a lemon taste like?|How does a lemon taste?|A lemon tastes sour.|sour; What does sugar taste
like?|How does sugar taste?|Sugar tastes sweet.|sweet; What does sea water taste like?|How does the sea taste?|Sea water
tastes salty.|salty; Which country does pizza come from?|Where was pizza first made?|Pizza comes from Italy.|Italy;
Which country does sushi come from?|Where does sushi come from?|Sushi comes from Japan.|Japan; What is ice?|What is
frozen water called?|Ice is frozen water.|frozen water; What is steam?|What does boiling water become?|Boiling water
becomes steam.|steam; When does water freeze?|At how many degrees Celsius does water freeze?|Water freezes at zero
degrees Celsius.|zero; When does water boil?|At how many degrees Celsius does water boil?|Water boils at one hundred
degrees Celsius.|one hundred; What is glass made from?|What is the main thing in glass?|Glass is made from sand.|sand;
What is paper made from?|Where does paper come from?|Paper is made from wood.|wood; What is a diamond made of?|Which
element is a diamond made of?|A diamond is made of carbon.|carbon; Where does cotton come from?|Does cotton come from a
plant?|Cotton comes from a plant.|plant; Where does rubber come from?|Which plant gives us natural rubber?|Natural
rubber comes from a tree.|tree; Where does leather come from?|What is leather made from?|Leather is made from animal
skin.|animal skin; What makes iron rust?|What happens to wet iron?|Wet iron rusts.|rusts; What does a magnet
attract?|Which metal sticks to a magnet?|A magnet attracts iron.|iron; Which metal is liquid at room temperature?|What
is the only liquid metal in a warm room?|Mercury is a liquid metal at room temperature.|mercury; What is the chemical
name of water?|Which two gases make water?|Water is made of hydrogen and oxygen.|hydrogen and oxygen; Which gas do we
need to breathe?|What gas do people need to live?|People need oxygen to live.|oxygen; Which gas is most of the air?|What
is air mostly made of?|Air is mostly nitrogen.|nitrogen; What do plants need to grow?|What helps a plant grow?|Plants
need light and water to grow.|light and water; What color are most leaves?|Which color are leaves in spring?|Most leaves
are green.|green; Which part of a plant is under the ground?|What part of a plant drinks water?|The roots of a plant
drink water from the ground.|roots; What grows from an acorn?|Which tree grows from an acorn?|An oak tree grows from an
acorn.|oak; What is the longest river in South America?|Which great river flows through Brazil?|The Amazon flows through
Brazil.|Amazon; Which river flows through Egypt?|What is the great river of Egypt?|The Nile flows through Egypt.|Nile;
Which river flows through London?|What is the river in London?|The Thames flows through London.|Thames; Which river
flows through Paris?|What is the river in Paris?|The Seine flows through Paris.|Seine; What is the highest
mountain?|Which mountain is the highest in the world?|Mount Everest is the highest mountain in the world.|Mount Everest;
What is the largest ocean?|Which ocean is the biggest?|The Pacific is the largest ocean.|Pacific; Which ocean lies
between Europe and America?|What ocean lies between Africa and Brazil?|The Atlantic lies between Europe and
America.|Atlantic; What is the largest continent?|Which continent is the biggest?|Asia is the largest continent.|Asia;
What is the coldest continent?|Which continent is covered with ice?|Antarctica is the coldest continent.|Antarctica; How
many continents are there?|How many continents does the Earth have?|There are seven continents.|seven; What is the
largest country?|Which country is the largest in the world?|Russia is the largest country in the world.|Russia; What is
the smallest country?|Which country is the smallest in the world?|Vatican City is the smallest country in the
world.|Vatican City; What is the largest hot desert?|Which desert covers northern Africa?|The Sahara is the largest hot
desert.|Sahara; Where is the Eiffel Tower?|Which city has the Eiffel Tower?|The Eiffel Tower is in Paris.|Paris; Where
is the Statue of Liberty?|Which city has the Statue of Liberty?|The Statue of Liberty is in New York.|New York; Where
are the great pyramids?|Which country has the great pyramids?|The great pyramids are in Egypt.|Egypt; Where is the Great
Wall?|Which country has the Great Wall?|The Great Wall is in China.|China; Where is Big Ben?|Which city has Big Ben?|Big
Ben is in London.|London; Where is the Taj Mahal?|Which country has the Taj Mahal?|The Taj Mahal is in India.|India;
Which language do people speak in Brazil?|What do people in Brazil speak?|People in Brazil speak Portuguese.|Portuguese;
Which language do people speak in Mexico?|What do most people in Mexico speak?|Most people in Mexico speak
Spanish.|Spanish; Which language do people speak in France?|What do people in France speak?|People in France speak
French.|French; Which language do people speak in Austria?|What do people in Austria speak?|People in Austria speak
German.|German; Who painted the Mona Lisa?|Which artist made the Mona Lisa?|Leonardo da Vinci painted the Mona
Lisa.|Leonardo da Vinci; Who wrote Romeo and Juliet?|Which writer gave us Hamlet?|William Shakespeare wrote Hamlet, and
Romeo and Juliet.|William Shakespeare; Who wrote Oliver Twist?|Which author wrote Oliver Twist?|Charles Dickens wrote
Oliver Twist.|Charles Dickens; Who was the first president of the United States?|Which president of the United States
came first?|George Washington was the first president of the United States.|George Washington; Who invented the
telephone?|Who got the first patent for the telephone?|Alexander Graham Bell got the first patent for the
telephone.|Alexander Graham Bell; Who first flew a powered plane?|Which brothers built the first plane?|The Wright
brothers flew the first powered plane.|Wright brothers; Who discovered penicillin?|Which doctor found
penicillin?|Alexander Fleming discovered penicillin.|Alexander Fleming; Who discovered radium?|Which woman won two Nobel
prizes?|Marie Curie discovered radium and won two Nobel prizes.|Marie Curie; Who wrote about the theory of
relativity?|Which scientist gave us relativity?|Albert Einstein gave us the theory of relativity.|Albert Einstein; Who
composed the Ninth Symphony with the Ode to Joy?|Which deaf composer wrote nine symphonies?|Beethoven wrote nine
symphonies.|Beethoven; Who lived in the pyramids' time as kings of Egypt?|What were the kings of old Egypt called?|The
kings of old Egypt were called pharaohs.|pharaohs; Which people built the Colosseum?|Who built the Colosseum in
Rome?|The Romans built the Colosseum.|Romans; How many sides does a triangle have?|How many corners are in a triangle?|A
triangle has three sides and three corners.|three; How many sides does a square have?|How many corners are in a
square?|A square has four sides and four corners.|four; How many sides does a hexagon have?|Which number of sides makes
a hexagon?|A hexagon has six sides.|six; What shape is a ball?|What is the shape of a ball?|A ball is round.|round; What
shape is a coin?|What is the shape of most coins?|Most coins are round.|round; How many wheels does a bicycle have?|How
many wheels are on a bicycle?|A bicycle has two wheels.|two; How many wheels does a car have?|How many wheels are on
most cars?|Most cars have four wheels.|four; How many strings does a violin have?|How many strings are on a violin?|A
violin has four strings.|four; How many letters are in the English alphabet?|How many letters does English have?|The
English alphabet has twenty six letters.|twenty six; What is the first letter of the alphabet?|Which letter comes first
in the alphabet?|The first letter of the alphabet is A.|A; What is the last letter of the alphabet?|Which letter comes
last in the alphabet?|The last letter of the alphabet is Z.|Z; How many players does a soccer team have on the
field?|How many players are on a soccer team?|A soccer team has eleven players on the field.|eleven; How many colors are
in a rainbow?|How many colors does a rainbow have?|A rainbow has seven colors.|seven; What do you get when you mix blue
and yellow?|Which color do blue and yellow paint make?|Blue and yellow paint make green.|green; What do you get when you
mix red and white?|Which color do red and white paint make?|Red and white paint make pink.|pink; What do you get when
you mix red and yellow?|Which color do red and yellow paint make?|Red and yellow paint make orange.|orange; What do you
use to cut paper?|Which tool cuts paper?|You cut paper with scissors.|scissors; What do you use to open a lock?|What
opens a lock?|A key opens a lock.|key; What do you use in the rain to stay dry?|What keeps you dry in the rain?|An
umbrella keeps you dry in the rain.|umbrella; What do you use to drive a nail?|Which tool drives a nail?|You drive a
nail with a hammer.|hammer; What tells the time?|What do you look at to know the time?|A clock tells the time.|clock;
What shows you the way north?|Which tool always points north?|A compass shows you the way north.|compass; How many cents
are in a dollar?|How many cents make a dollar?|There are one hundred cents in a dollar.|one hundred; How many things are
in a dozen?|How many eggs make a dozen?|A dozen is twelve.|twelve; How many years are in a century?|How long is a
century?|A century is one hundred years.|one hundred; How many years are in a decade?|How long is a decade?|A decade is
ten years.|ten; How many centimeters are in a meter?|How many centimeters make a meter?|There are one hundred
centimeters in a meter.|one hundred; How many grams are in a kilogram?|How many grams make a kilogram?|There are one
thousand grams in a kilogram.|one thousand; Which day comes at the end of the year?|What is the last day of the
year?|The last day of the year is the thirty first of December.|thirty first of December; When is Christmas Day?|Which
day is Christmas?|Christmas Day is the twenty fifth of December.|twenty fifth of December; When does the new year
begin?|What is the first day of the year?|The new year begins on the first of January.|first of January; What makes a
rainbow?|When do we see a rainbow?|We see a rainbow when the sun shines through rain.|rain and sun; What are clouds made
of?|What is inside a cloud?|Clouds are made of tiny drops of water or ice.|water; What comes with lightning?|What do we
hear after lightning?|We hear thunder after lightning.|thunder"""
DEFINITIONS = """bakery: a shop that sells bread; library: a place where people borrow books; hospital: a place where
sick people get help; school: a place where children learn; kitchen: a room where people cook; bedroom: a room where
people sleep; garage: a place where a car is kept; museum: a place that shows old and beautiful things; theater: a place
where actors perform plays; airport: a place where planes take off and land; harbor: a safe place for ships; market: a
place where people buy and sell food; pharmacy: a shop that sells medicine; restaurant: a place where people eat meals;
hotel: a place where travelers sleep; farm: a place where crops and animals are raised; factory: a place where things
are made; garden: a piece of land for flowers and plants; park: a green place where people walk and play; forest: a
large place full of trees; desert: a dry place with very little rain; island: land with water all around it; mountain: a
very high piece of land; valley: low land between hills; river: a long stream of flowing water; lake: a large body of
water with land around it; ocean: a very large body of salt water; beach: sandy land beside the sea; volcano: a mountain
that can pour out hot rock; cave: a hollow place under the ground; bridge: a structure that crosses a river or a road;
tunnel: a passage under the ground; road: a way for cars and people; castle: a strong old building with thick walls;
tent: a small shelter made of cloth; tower: a tall narrow building; fence: a barrier around a piece of land; window: an
opening that lets in light; door: a panel that opens and closes a room; roof: the top cover of a house; chimney: a pipe
that carries smoke away; doctor: a person who treats sick people; nurse: a person who cares for sick people; teacher: a
person who helps others learn; baker: a person who makes bread; butcher: a person who sells meat; farmer: a person who
grows food; pilot: a person who flies a plane; sailor: a person who works on a ship; tailor: a person who makes clothes;
carpenter: a person who builds things from wood; plumber: a person who repairs water pipes; dentist: a person who takes
care of teeth; writer: a person who writes books; painter: a person who makes pictures with paint; singer: a person who
makes music with the voice; judge: a person who decides cases in court; lawyer: a person who gives advice about the law;
scientist: a person who studies how the world works; gardener: a person who looks after plants; librarian: a person who
works in a library; chef: a person who cooks in a restaurant; waiter: a person who brings food to the table; barber: a
person who cuts hair; fisherman: a person who catches fish; miner: a person who digs under the ground; neighbor: a
person who lives near you; friend: a person you know and like; guest: a person who visits you; aunt: the sister of your
father or mother; uncle: the brother of your father or mother; grandmother: the mother of your father or mother; cousin:
the child of your aunt or uncle; hammer: a tool for driving nails; saw: a tool for cutting wood; broom: a brush for
sweeping the floor; shovel: a tool for digging; needle: a thin tool for sewing; ladder: a set of steps for climbing;
kettle: a pot for boiling water; spoon: a tool for eating soup; fork: a tool for picking up food; knife: a tool for
cutting; cup: a small container for drinks; bowl: a deep round dish; plate: a flat dish for food; bottle: a narrow
container for liquids; basket: a container for carrying things; pillow: a soft cushion for your head; blanket: a warm
cover for a bed; curtain: a cloth that covers a window; mirror: a glass that shows your face; candle: a stick of wax
that gives light; lamp: a thing that gives light; clock: a machine that shows the time; calendar: a chart of days and
months; map: a picture of the land; ticket: a paper that lets you travel or enter; wallet: a small case for money; key:
a piece of metal that opens a lock; pencil: a tool for writing and drawing; dictionary: a book that explains words;
diary: a book where you write about your days; novel: a long story in a book; poem: a piece of writing with rhythm;
newspaper: a paper that tells the news; recipe: a list of steps for cooking a dish; breakfast: the first meal of the
day; lunch: the meal in the middle of the day; supper: the meal in the evening; snack: a small amount of food between
meals; salad: a dish of mixed raw vegetables; soup: a warm liquid dish; sandwich: a meal made with two pieces of bread;
dessert: a sweet dish at the end of a meal; piano: a large instrument with black and white keys; guitar: an instrument
with six strings; drum: an instrument that you hit; flute: an instrument that you blow; bicycle: a vehicle with two
wheels and pedals; train: a vehicle that runs on rails; bus: a large vehicle for many people; ship: a large boat that
crosses the sea; helicopter: an aircraft with spinning blades on top; rocket: a machine that flies into space;
telescope: a tool for looking at the stars; microscope: a tool for looking at very small things; thermometer: a tool
that measures heat; compass: a tool that shows which way is north; telephone: a machine for talking over a distance;
computer: a machine that works with information; robot: a machine that can do tasks by itself; battery: a thing that
stores electric power; engine: a machine that makes things move; umbrella: a cover that keeps off the rain; glove: a
piece of clothing for the hand; scarf: a warm cloth for the neck; hat: a piece of clothing for the head; coat: a warm
piece of clothing for cold days; birthday: the day on which a person was born; holiday: a day when people do not work;
secret: a thing that few people know; promise: a word that you mean to keep; dream: a story that you see while you
sleep; storm: bad weather with strong wind; shadow: a dark shape made by blocked light; planet: a large round body that
goes around a star; star: a huge ball of hot glowing gas; puppy: a young dog; kitten: a young cat; orchard: a piece of
land where fruit trees grow; hive: a home for bees; nest: a home that a bird builds; stable: a building for horses; zoo:
a place where you can see many animals"""
ADVICE = """Drink a glass of water when you wake up.; Wash your hands before you eat.; Brush your teeth twice a day.;
Take a short walk after dinner.; Go to bed at the same time every night.; Eat some fruit every day.; Wear a warm coat
when it is cold.; Take a deep breath when you feel nervous.; Rest your eyes after a long time at the screen.; Write down
three things you want to do today.; Start with the smallest task and keep going.; Put your phone away while you study.;
Ask a friend for help when you are stuck.; Say thank you when someone helps you.; Call your grandmother this weekend,
she will be happy.; Listen first, and then speak.; Read a few pages before you sleep.; Stretch your back every hour.;
Use sunscreen on a bright summer day.; Wear a helmet when you ride a bicycle.; Look both ways before you cross the
street.; Turn off the stove when you finish cooking.; Keep a spare key with a neighbor you trust.; Water your plants in
the morning.; Open a window to let in fresh air.; Boil the pasta in plenty of salted water.; Cook the rice slowly with
the lid on.; Whisk the eggs with a little milk.; Add a pinch of salt to the soup.; Fry the onions gently until they are
golden.; Bake the potatoes in a hot oven for an hour.; Let the dough rise in a warm place.; Mix the flour, the sugar,
and the butter first.; Squeeze a little lemon over the fish.; Toast the bread until it is brown.; Chop the carrots into
thin slices.; Let the tea stand for three minutes.; Stir the sauce so that it does not burn.; Rinse the beans under cold
water.; Peel the apples before you make the pie.; Melt the chocolate over warm water.; Taste the stew before you add
more pepper.; Beat the cream until it is thick.; Spread some jam on warm pancakes.; Keep the milk in the fridge.; Store
the bread in a paper bag.; Slice the tomatoes with a sharp knife.; Let the meat rest before you cut it.; Grate some
cheese over the noodles.; Put honey in your tea for a sore throat.; Soak a dirty pan in hot soapy water.; Dry wet shoes
with old newspaper.; Clean the mirror with a soft cloth.; Fold your clothes while they are warm.; Make your bed each
morning.; Save a little money every month.; Compare prices before you buy something big.; Make a list before you go
shopping.; Charge your phone before a long trip.; Pack your bag the night before you leave.; Arrive at the airport two
hours early.; Learn five new words every day.; Practice the piano a little every evening.; Repeat the hard part slowly
until it is easy.; Teach someone else what you have learned.; Take notes during the lesson.; Check your work before you
hand it in.; Get up and move when you feel tired.; Play some quiet music to relax.; Sit up straight at your desk.; Bend
your knees when you lift a heavy box.; Put ice on a swollen ankle.; Cover your mouth when you cough.; Hold a small burn
under cool running water.; See a doctor if the pain does not stop.; Drive slowly when the road is wet.; Keep a
flashlight near your bed.; Never leave a burning candle alone.; Change your passwords from time to time.; Be kind to
people who make mistakes.; Say sorry when you are wrong.; Smile at someone today.; Give your dog fresh water every day.;
Brush a cat gently, and it will purr.; Plant the seeds in soft dark soil.; Cut the dead roses in early spring.; Bring a
small gift when you visit friends.; Write your teacher a friendly letter.; Try again tomorrow with fresh eyes.; Take one
step at a time."""
NAMES = """Anna, Ben, Clara, David, Emma, Frank, Grace, Henry, Isabel, Jack, Kate, Leo, Maria, Nick, Olivia, Peter,
Rosa, Sam, Tom, Vera, Walter, Zoe, Alice, Bob, Carol, Daniel, Ella, George, Helen, Ivan, Julia, Kevin, Laura, Martin,
Nora, Oscar, Paul, Rachel, Simon, Tina, Victor, Wendy, Lucy, Mark, Sarah, James, Linda, Robert, Mum, Dad"""
CITIES = """Paris, London, Berlin, Rome, Madrid, Tokyo, Chicago, Boston, Sydney, Dublin, Vienna, Lisbon, Oslo, Athens,
Cairo, Toronto, Seattle, Denver, Prague, Warsaw, Moscow, Delhi, Mumbai, Seoul, Milan, Venice, Geneva, Zurich, Munich,
Hamburg, Dallas, Houston, Miami, Atlanta, Phoenix, Portland, Montreal, Bristol, Oxford, Cambridge, Glasgow, Edinburgh,
Liverpool, Manchester, Naples, Barcelona, Florence, Singapore, Melbourne, Helsinki"""
ROOMS = """kitchen, bedroom, bathroom, living room, hall, garage, office, dining room, basement, attic, nursery, study,
guest room, workshop, garden, library"""
FOODS = """apples, bananas, bread, butter, carrots, cheese, coffee, cream, eggs, flour, garlic, grapes, ham, honey, jam,
lemons, lettuce, milk, mushrooms, noodles, nuts, oil, onions, oranges, pasta, peaches, pears, peas, pepper, potatoes,
rice, salt, sausages, soap, spinach, strawberries, sugar, tea, tomatoes, vinegar, yogurt, cereal, biscuits, cherries,
beans, corn, chicken, fish, paper towels, toothpaste, shampoo, candles, batteries, light bulbs, dog food"""
TASKS = """call the bank, water the plants, feed the cat, walk the dog, buy some milk, pay the rent, take your medicine,
pick up the children, return the library books, clean the windows, send the letter, book the hotel, charge the car, wash
the sheets, visit the dentist, renew your passport, bake a cake, lock the back door, empty the dishwasher, mow the lawn,
order new shoes, finish the report, practice the violin, pack the suitcase, bring an umbrella, check the oven, answer
the email, meet the manager, sign the papers, print the tickets, fix the bicycle, iron the shirts, take out the trash,
buy a birthday present, invite the neighbors, clean the fish tank, go to the gym, study for the exam, thank the nurse,
collect the parcel"""
GENRES = """jazz, rock, classical, piano, country, folk, dance, guitar, soul, blues, quiet, happy, gentle, cheerful,
loud, relaxing, Irish, Spanish, Brazilian, African"""
MUSIC = """music, songs, tunes, melodies"""
WEATHER = """cloudy, sunny, rainy, windy, foggy, snowy, cold, warm, hot, mild, stormy, dry, wet, icy, humid, chilly,
bright, grey"""
WEARS = """take an umbrella, wear a coat, bring a hat, put on boots, take a scarf, wear sunglasses, bring a jacket, stay
inside, drive carefully, open the windows, drink some water, enjoy the day, take some gloves, go for a walk, keep warm,
bring a sweater"""
PLACES = """bakery, bank, beach, bus stop, church, cinema, hospital, hotel, library, market, museum, park, pharmacy,
police station, post office, restaurant, school, shop, stadium, station, supermarket, swimming pool, theater, town hall,
university, zoo, harbor, bridge, castle, bookstore"""
STREETS = """Main Street, Oak Street, Park Road, River Road, Church Lane, Station Road, Mill Lane, High Street, King
Street, Garden Avenue"""
MESSAGES = """I am on my way, dinner is ready, I will be late, the meeting starts soon, the train is delayed, I miss
you, happy birthday, thank you for the flowers, see you tomorrow, good luck with the exam, I found the keys, please call
me back, the baby is asleep, we need more milk, I am at the station, the car is fixed, have a safe trip, lunch was
wonderful, I got the job, the game is over"""
WORDS = """apple, baby, ball, bear, bird, boat, book, box, boy, bread, brush, bus, cake, car, cat, chair, child, clock,
cloud, coat, cold, corn, cow, cup, dance, dark, day, desk, dish, dog, door, dream, dress, drum, duck, ear, earth, east,
egg, eye, face, farm, father, field, fire, fish, five, floor, flower, food, foot, forest, fork, four, fox, friend, frog,
fruit, game, garden, gate, girl, glass, goat, gold, grass, green, hair, hand, happy, hat, head, heart, hill, home,
honey, horse, house, ice, iron, jam, juice, jump, key, king, kite, knee, knife, lake, lamp, leaf, leg, lemon, letter,
light, lion, lip, love, lunch, map, market, milk, money, moon, morning, mother, mouse, mouth, music, name, neck, nest,
night, nine, nose, ocean, onion, orange, oven, owl, page, paper, park, party, peace, pen, pencil, phone, piano, picture,
pig, plane, plant, plate, queen, quick, quiet, rabbit, rain, red, rice, ring, river, road, rock, roof, room, rose, salt,
sand, school, sea, seed, seven, sheep, ship, shirt, shoe, shop, silver, sister, six, sky, snow, soap, sock, soup, spoon,
spring, star, stone, storm, street, sugar, summer, sun, table, tail, tea, ten, three, tiger, time, train, tree, truck,
two, uncle, valley, van, voice, wall, water, wheel, white, wind, window, winter, wolf, wood, word, world, yellow, yes,
zebra, zero"""
TAXA = """fruit:apple, banana, pear, peach, cherry, lemon, orange, grape, plum, strawberry, mango, melon;
vegetable:carrot, potato, onion, cabbage, turnip, radish, leek; bird:robin, sparrow, eagle, owl, duck, swan, penguin,
parrot, crow, pigeon; fish:salmon, trout, tuna, shark, cod, herring; insect:bee, ant, butterfly, beetle, mosquito,
grasshopper; mammal:dog, cat, horse, cow, sheep, goat, lion, tiger, bear, wolf, whale, dolphin, rabbit, mouse, elephant;
tree:oak, pine, birch, maple, willow; flower:rose, tulip, daisy, lily, violet, sunflower; tool:hammer, saw, drill,
wrench, shovel, rake; instrument:piano, violin, guitar, flute, trumpet, drum, cello; vehicle:car, bus, truck, train,
bicycle, tractor; color:red, blue, green, yellow, purple, brown; metal:iron, gold, silver, copper, tin, zinc;
drink:coffee, tea, lemonade, milk, juice; sport:tennis, soccer, hockey, baseball, rugby, golf"""
COLORS = """banana:yellow; tomato:red; strawberry:red; carrot:orange; cucumber:green; lemon:yellow; lime:green;
cherry:red; snowflake:white; crow:black; frog:green; sunflower:yellow; polar bear:white; flamingo:pink; swan:white;
pumpkin:orange; fire truck:red; cabbage leaf:green; pea:green; blueberry:blue; raven:black; ladybug:red; canary:yellow;
goldfish:orange; stop sign:red; lump of coal:black; sheet of writing paper:white; glass of milk:white; blade of
grass:green; ruby:red; emerald:green; sapphire:blue; school bus:yellow; daffodil:yellow; broccoli stem:green; chocolate
bar:brown; tree trunk:brown; walnut:brown; lion:tan; elephant:grey"""
OPPOSITES = """hot:cold; big:small; up:down; left:right; day:night; good:bad; happy:sad; fast:slow; old:young; new:old;
open:closed; in:out; on:off; high:low; long:short; light:dark; hard:soft; wet:dry; full:empty; early:late; rich:poor;
strong:weak; loud:quiet; clean:dirty; easy:difficult; first:last; front:back; heavy:light; near:far; thick:thin;
wide:narrow; true:false; love:hate; begin:end; buy:sell; give:take; win:lose; push:pull; come:go; ask:answer;
awake:asleep; always:never; above:below; before:after; inside:outside; north:south; east:west; black:white; man:woman;
brother:sister; king:queen; summer:winter; sweet:sour; smooth:rough; sharp:dull; deep:shallow; cheap:expensive;
safe:dangerous; brave:afraid; polite:rude; laugh:cry; remember:forget; arrive:leave; find:lose; float:sink; rise:fall;
war:peace; friend:enemy; question:answer; life:death; more:less; many:few; everything:nothing; alive:dead; tight:loose;
tall:short; wise:foolish; simple:complicated; beautiful:ugly; ancient:modern"""
SYNONYMS = """big:large; small:little; happy:glad; sad:unhappy; fast:quick; begin:start; end:finish; smart:clever;
angry:mad; rich:wealthy; quiet:silent; difficult:hard; easy:simple; beautiful:pretty; afraid:scared; tired:weary;
strange:odd; correct:right; wrong:incorrect; shout:yell; jump:leap; speak:talk; look:watch; build:make; help:assist;
choose:pick; answer:reply; present:gift; street:road; doctor:physician; child:kid; house:home; rock:stone; forest:woods;
ocean:sea; ill:sick; shut:close; fix:repair; buy:purchase; brave:bold; kind:nice; huge:enormous; tiny:minute;
famous:well known; cold:chilly; warm:mild; wet:damp; empty:vacant; calm:peaceful; rapid:swift"""
SOUNDS = """dog:woof; cat:meow; cow:moo; sheep:baa; duck:quack; pig:oink; horse:neigh; lion:roar; frog:croak; owl:hoot;
bee:buzz; snake:hiss; mouse:squeak; rooster:cock a doodle doo; hen:cluck; crow:caw; wolf:howl; goose:honk;
turkey:gobble; donkey:hee haw; chick:peep; bear:growl; dove:coo; monkey:chatter"""
PLURALS = """cat:cats; dog:dogs; child:children; mouse:mice; foot:feet; tooth:teeth; man:men; woman:women; goose:geese;
sheep:sheep; fish:fish; leaf:leaves; knife:knives; wife:wives; wolf:wolves; life:lives; loaf:loaves; half:halves;
shelf:shelves; city:cities; baby:babies; lady:ladies; story:stories; berry:berries; box:boxes; bus:buses; dish:dishes;
glass:glasses; watch:watches; church:churches; potato:potatoes; tomato:tomatoes; hero:heroes; ox:oxen; person:people;
book:books; tree:trees; car:cars; house:houses; bird:birds; boy:boys; toy:toys; key:keys; day:days; fox:foxes;
brush:brushes; peach:peaches; penny:pennies; puppy:puppies; country:countries; deer:deer; thief:thieves; calf:calves;
cherry:cherries; bench:benches; piano:pianos; photo:photos; family:families"""
RHYMES = """cat, hat, bat, mat; day, play, say, way; light, night, bright, kite; tree, bee, sea, key; ring, sing, king,
spring; blue, shoe, two, true; cake, lake, snake, make; moon, spoon, soon, tune; star, car, far, jar; dog, frog, log,
fog; house, mouse; rain, train, plane, chain; bear, chair, pear, hair; ball, tall, wall, fall; bed, red, head, bread;
book, cook, look, hook; rose, nose, toes, snows; sun, fun, run, one; boat, coat, goat, note; fish, dish, wish; clock,
sock, rock, lock; pen, ten, hen, men; door, four, floor, more; time, rhyme, lime, climb; gold, cold, old, fold"""
SIZES = """pea, grape, plum, melon, bathtub, car, house, castle, mountain; ant, bee, mouse, rabbit, wolf, lion, rhino,
elephant, whale; ladybug, sparrow, pigeon, swan, ostrich; coin, cup, bucket, barrel, bus, ship; pebble, brick, boulder,
hill, planet"""
SPEEDS = """snail, turtle, chicken, horse, cheetah; walker, bicycle, train, plane, rocket"""
PROPS = """fire:hot:cold; ice:cold:hot; snow:white:black; sugar:sweet:sour; a stone:hard:soft; a pillow:soft:hard; a
feather:light:heavy; an elephant:heavy:light; a needle:sharp:dull; water:wet:dry; a desert:dry:wet; a lemon:sour:sweet;
honey:sweet:bitter; iron:strong:weak; a ball:round:square; coal:black:white; milk:white:blue; grass:green:purple; a
giraffe:tall:short; a snail:slow:fast; a rocket:fast:slow; the ocean:deep:shallow; the sun:bright:dark;
night:dark:bright; a diamond:hard:soft; silk:smooth:rough; thunder:loud:quiet; a whisper:quiet:loud;
gold:valuable:worthless; a mountain:high:low; the moon:round:square; summer:warm:freezing; winter:cold:hot; a
mouse:small:huge; a whale:huge:tiny; glass:hard:fluffy; a bubble:round:square; wool:warm:icy; cotton:soft:hard;
steel:strong:weak; lava:hot:cold; blood:red:green; a kitten:young:old; an ant:small:large"""
CAN = """bird:fly:read a book; fish:swim:drive a car; dog:bark:fly; cat:climb:speak English; horse:run:play the piano;
frog:jump:write a letter; duck:swim:ride a bicycle; monkey:climb:bake bread; bee:fly:sing a song; parrot:fly:cook
dinner; kangaroo:jump:read a map; dolphin:swim:climb a tree; rabbit:hop:fly a plane; eagle:fly:swim under ice;
snake:bite:walk on legs; baby:cry:drive a bus; robot:move:eat lunch; ship:float:fly to the moon; plane:fly:lay eggs;
spider:spin a web:roar loudly"""
CAPITALS = """Europe:France=Paris, Germany=Berlin, Italy=Rome, Spain=Madrid, Portugal=Lisbon, Greece=Athens,
Austria=Vienna, Belgium=Brussels, Denmark=Copenhagen, Sweden=Stockholm, Norway=Oslo, Finland=Helsinki,
Iceland=Reykjavik, Ireland=Dublin, Poland=Warsaw, Hungary=Budapest, Romania=Bucharest, Bulgaria=Sofia, Serbia=Belgrade,
Croatia=Zagreb, Slovenia=Ljubljana, Slovakia=Bratislava, Ukraine=Kyiv, Belarus=Minsk, Latvia=Riga, Estonia=Tallinn,
Lithuania=Vilnius, Albania=Tirana, Switzerland=Bern, England=London, Scotland=Edinburgh, Wales=Cardiff, Malta=Valletta;
Asia:Japan=Tokyo, China=Beijing, India=New Delhi, Thailand=Bangkok, Vietnam=Hanoi, South Korea=Seoul, North
Korea=Pyongyang, Mongolia=Ulaanbaatar, Nepal=Kathmandu, Pakistan=Islamabad, Afghanistan=Kabul, Iran=Tehran,
Iraq=Baghdad, Syria=Damascus, Jordan=Amman, Lebanon=Beirut, Saudi Arabia=Riyadh, Oman=Muscat, Qatar=Doha,
Bangladesh=Dhaka, Cambodia=Phnom Penh, Laos=Vientiane, Malaysia=Kuala Lumpur, Turkmenistan=Ashgabat,
Uzbekistan=Tashkent, Bhutan=Thimphu; Africa:Egypt=Cairo, Kenya=Nairobi, Nigeria=Abuja, Ghana=Accra, Ethiopia=Addis
Ababa, Morocco=Rabat, Algeria=Algiers, Tunisia=Tunis, Libya=Tripoli, Sudan=Khartoum, Uganda=Kampala, Rwanda=Kigali,
Zambia=Lusaka, Zimbabwe=Harare, Angola=Luanda, Mozambique=Maputo, Namibia=Windhoek, Botswana=Gaborone, Senegal=Dakar,
Mali=Bamako, Somalia=Mogadishu, Madagascar=Antananarivo; South America:Brazil=Brasilia, Argentina=Buenos Aires,
Chile=Santiago, Peru=Lima, Colombia=Bogota, Ecuador=Quito, Venezuela=Caracas, Uruguay=Montevideo, Paraguay=Asuncion;
North America:Canada=Ottawa, Mexico=Mexico City, Cuba=Havana, Jamaica=Kingston, Guatemala=Guatemala City, Costa Rica=San
Jose, Panama=Panama City, Honduras=Tegucigalpa, Nicaragua=Managua, Haiti=Port au Prince"""
ONES = """zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, fifteen,
sixteen, seventeen, eighteen, nineteen"""
TENS = """twenty, thirty, forty, fifty, sixty, seventy, eighty, ninety"""
DAYS = """Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"""
MONTHS = """January, February, March, April, May, June, July, August, September, October, November, December"""
ORDINALS = """first, second, third, fourth, fifth, sixth, seventh, eighth, ninth, tenth, eleventh, twelfth, thirteenth,
fourteenth, fifteenth, sixteenth, seventeenth, eighteenth, nineteenth, twentieth"""
