"""The nouns of the toy world: who and what there is. One casing everywhere, so that words stay whole tokens."""

from __future__ import annotations

NAMES = (
    "Tom", "Anna", "Ben", "Mia", "Sam", "Lily", "Max", "Ella",
    "Jack", "Rosa", "Leo", "Nina", "Paul", "Emma", "Hugo", "Clara",
)  # fmt: skip
PRONOUNS = {name: ("He", "She")[i % 2] for i, name in enumerate(NAMES)}

PLACES = (
    "mill", "inn", "castle", "tower", "farm", "cabin", "cottage",
    "palace", "village", "school", "library", "market", "garden", "harbour",
)  # fmt: skip
FOODS = (
    "bread", "cheese", "apples", "plums", "soup", "honey", "nuts",
    "rice", "eggs", "fish", "beans", "cake", "corn", "pears",
)  # fmt: skip
JOBS = (
    "baker", "farmer", "teacher", "doctor", "sailor", "tailor", "smith",
    "painter", "singer", "hunter", "gardener", "driver", "cook", "weaver",
)  # fmt: skip
TOYS = ("ball", "kite", "drum", "boat", "doll", "hat", "book", "cup", "coat", "flute", "box", "ring", "bell", "bag")
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "pink", "orange", "purple", "grey")
PAINTS = COLOURS[:8]  # those that toys come in: after "a", not "an"
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# From the smallest to the biggest: animal -> (what it eats, where it sleeps).
ANIMALS = {
    "bee": ("pollen", "hive"),
    "mouse": ("seeds", "hole"),
    "frog": ("flies", "pond"),
    "duck": ("worms", "reeds"),
    "cat": ("mice", "basket"),
    "fox": ("berries", "den"),
    "dog": ("bones", "kennel"),
    "goat": ("leaves", "shed"),
    "pig": ("roots", "sty"),
    "deer": ("moss", "woods"),
    "bear": ("salmon", "cave"),
    "cow": ("grass", "barn"),
    "horse": ("oats", "stable"),
    "camel": ("dates", "tent"),
}
TOOLS = {
    "hammer": "driving nails",
    "saw": "cutting wood",
    "needle": "sewing cloth",
    "broom": "sweeping floors",
    "spade": "digging holes",
    "pot": "boiling water",
    "pen": "writing letters",
    "lamp": "lighting rooms",
    "net": "catching crabs",
    "rope": "tying knots",
    "brush": "painting walls",
    "key": "opening doors",
    "knife": "slicing meat",
    "bucket": "carrying milk",
}
THINGS = {
    "rose": "red",
    "lemon": "yellow",
    "leaf": "green",
    "crow": "black",
    "swan": "white",
    "carrot": "orange",
    "plum": "purple",
    "pig": "pink",
    "bear": "brown",
    "mouse": "grey",
    "cherry": "red",
    "banana": "yellow",
    "whale": "blue",
    "frog": "green",
}
