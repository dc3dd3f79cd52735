"""Outputs of models for problems whose answers are words: (right, wrong) outputs by the problems of test_answers.py."""

# fmt: off
WORDS = {  # right and wrong outputs for the problems of test_answers.py
    "Mia": (
        [
            "Mia", " Mia.", "**Mia**", "“小美”", '"Mia"', "Mia is the tallest.", "The tallest is Mia.", "小美",
            "小美。", "小美最高。", "最高的是小美。", "答案是小美。", "The answer is Mia.", "The answer is **Mia**.",
            "Answer: Mia", "答案：小美", "It is Mia.", "So Mia is the tallest.",
            "Tom is taller than Ann, and Mia is taller than Tom. So Mia is the tallest.", "'Mia'", "`Mia`",
            "「小美」", "《小美》", "MIA", "mia", "Mia\n\nQuestion: Who?", "\\boxed{Mia}", "\\boxed{\\text{Mia}}",
            "The tallest person is **Mia**.", "**Answer:** Mia", "The answer is:\nMia",
            "Mia is the tallest because she is taller than Tom.", "Mia ist die größte.", "Mia es la más alta.",
            "Die Antwort ist Mia.", "La respuesta es Mia.", "小美比其他人都高。", "Mia is taller than everyone.",
            "Mia (she is the tallest)", 'The answer is "Mia".', "因为小美比小明高，所以小美最高。", "答案是“小美”。",
            "The answer is Mia. The answer is Mi", "Mia!", "*Mia*", "_Mia_", "- Mia", "Therefore, the answer is Mia",
        ],
        [
            "Tom", "Mia is taller than Tom.", "小美比小明高。", "Mia or Tom", "Mia and Tom", "小美和小明", "小明",
            "Tom is taller than Mia.", "Not Mia.", "It is not Mia.", "不是小美。", "Miaow", "Benjamin", "",
            "Mia, Tom, Ann", "小明比小美高", "The answer is Tom.", "The answer is Tom, not Mia.", "小红",
            "The answer is Tom. Mia is short.", "I don't know", "谁最高？", "Mia isn't", "Tom, Mia",
        ],
    ),
    "cat": (
        [
            "cat", "The cat", "the cat is the oldest.", "猫", "猫年纪最大。", "年纪最大的动物是猫。",
            "The oldest animal is the cat.", "A cat.", "是猫", "答案是猫", "最大的是猫。", "It is the cat",
            "the cat, because it is older than the dog",
        ],
        [
            "The cat is older than the dog.", "熊猫", "cats", "猫比狗年纪大", "dog", "The dog is older than the cat",
            "猫头鹰", "cat and dog", "cat, dog, horse", "caterpillar", "狗",
        ],
    ),
    "red": (
        [
            "red", "Red.", "The heaviest box is red.", "The red box is the heaviest.", "红色", "红色的箱子",
            "最重的箱子是红色。", "The heaviest box is the red one.", "It is red, not blue.",
        ],
        [
            "The blue box is lighter than the red box.", "blue", "The red box is heavier than the blue box.",
            "粉红色", "蓝色箱子比红色箱子轻",
        ],
    ),
    "attic": (
        [
            "attic", "The trunk is in the attic.", "箱子在阁楼里。", "箱子在阁楼。", "阁楼",
            "It is not in the cellar, so it is in the attic.", "in the attic", "在阁楼里",
        ],
        [
            "attic or cellar", "It is not in the attic.", "不在阁楼", "The cellar",
        ],
    ),
    "cold": (
        [
            "cold", "The opposite of hot is cold.", "冷", "热的反义词是冷。", "It's cold",
            "冷。\n\n问题：大的反义词是什么？\n答案：小",
        ],
        [
            "hot", "寒冷", "The opposite of hot is warm.",
        ],
    ),
    "nineteen": (
        [
            "nineteen", "十九", "neunzehn", "diecinueve", "19", "kumi na tisa", "**nineteen**", "Nineteen apples.",
            "“十九”", "The answer is nineteen.", "There are nineteen.", "答案是十九。", "Die Antwort ist neunzehn.",
            "Kumi na tisa.",
        ],
        [
            "ninety", "nine", "", "20", "nineteen. No, the answer is 20.",
        ],
    ),
}

DENIALS = {  # more of them: denied, corrected, turned round, in another degree; and sentences that look so and are right
    "Mia": (
        [
            "Mia is taller than both Tom and Ann.",
            "Since Mia is taller than Tom and Tom is taller than Ann, Mia is the tallest.",
            "The Tallest Person is Mia.", "Tom. Actually, Mia.", "小美比小明和小红都高。",
            "因为小美比小明高，小明比小红高，小美最高。",
            "Not Tom, but Mia.", "不是小明，而是小美。", "There is no doubt that Mia is the tallest.",
            "Unlike Tom, Mia is the tallest.", "Mia, not Tom.", "Mia is taller than everyone else.",
            "Da Mia größer als Tom ist, ist Mia am größten.", "Tom. No, wait: Mia.", "小明。不对，小美。", "Mia no doubt",
            "Mia is the tallest, followed by Tom.", "The person who is tallest is Mia",
            "La persona más alta es Mia.",
            "No one is taller than Mia.",
            "没有人比小美更高。",
        ],
        [
            "It cannot be Mia.", "Everything except Mia", "Neither Mia", "Mia cannot be the tallest", "Mia is wrong.",
            "Bob is the tallest, followed by Mia.", "最高的不可能是小美。", "Mia is the shortest.",
            "Mia is the second tallest.", "小美最矮", "小美最不高", "Mia is the least tall.", "Mia is shorter than everyone.",
            "No one is shorter than Mia.", "Nobody thinks Mia",
            "除了小美", "I would not say Mia.", "instead of Mia", "It isn't really Mia.", "不会是小美",
            "Mia no es la más alta.", "Es ist nicht Mia.", "Alle außer Mia", "todos menos Mia",
            "Mia ist nicht die größte", "Unlike Mia", "小美不是最高的", "小美第二高", "Mia. No wait, Tom.", "Mia? No, Tom.",
            "Not **Mia**.", "Jeder statt Mia", "Mia must not be it", "It can't possibly be Mia",
        ],
    ),
    "cold": (
        [
            "The opposite of 'hot' is 'cold'.", "cold is the opposite of hot", "冷是热的反义词。", "hot. No wait, cold.",
            "cold, not hot", "\"Cold\" is the opposite of \"hot\".", "El contrario de hot es cold",
        ],
        [
            "cold is hot", "The opposite of cold is hot.", "冷的反义词是热", "冷的反义词是热。", "It cannot be cold.",
            "It isn't really cold.", "I would not say cold.", "Everything except cold", "neither cold",
            "instead of cold", "不会是冷", "除了冷", "cold. No wait, hot.", "cold? No, hot.",
            "The opposite of **cold** is hot.", "anything but cold", "hot, other than cold", "the opposite of cold",
        ],
    ),
    "red": (
        [
        ],
        [
            "It is not really red.",
        ],
    ),
    "cat": (
        [
            "The cat is older than both the dog and the horse.",
        ],
        [
            "Every animal except the cat",
        ],
    ),
    "attic": (
        [
            "It cannot be in the cellar, so it is in the attic.",
        ],
        [
            "It cannot be in the attic",
        ],
    ),
    "nineteen": (
        [
            "Twenty. Wait, it is nineteen.",
        ],
        [
            "Nineteen. Wait, it is twenty.", "nineteen\n\nActually that is wrong. It is 20.",
            "nineteen. No, wait: twenty.", "It is not nineteen.", "十九。不对，是二十。",
        ],
    ),
    "odd": (
        [
            "soldier", "The word that does not name a fruit is soldier.", "Soldier is not a fruit.",
            "soldier, because the others are fruit", "士兵不是水果。", "不是水果的词是士兵。",
        ],
        [
            "cherry", "It cannot be soldier.", "Not soldier", "cherry, plum, soldier, peach", "plum and soldier",
            "不是士兵",
        ],
    ),
}
