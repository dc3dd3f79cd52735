"""The two rungs without numbers: reasoning solved again from each language's own text, antonyms against a second list."""

import re
from collections import Counter
from itertools import permutations

import pytest
from test_data import LANGUAGES, records

# Name, kind, and the forms of the word in each language: German and Spanish ones with their endings.
LEXICON = """
cat | animal | cats? | 猫 | Katzen? | gatos?
dog | animal | dogs? | 狗 | Hunde? | perros?
horse | animal | horses? | 马 | Pferde? | caballos?
cow | animal | cows? | 牛 | Kuh|Kühe | vacas?
goat | animal | goats? | 山羊 | Ziegen? | cabras?
pig | animal | pigs? | 猪 | Schweine? | cerdos?
duck | animal | ducks? | 鸭子 | Enten? | patos?
rabbit | animal | rabbits? | 兔子 | Kaninchen | conejos?
sheep | animal | sheep | 绵羊 | Schafe? | ovejas?
bear | animal | bears? | 熊 | Bär(en)? | osos?
fox | animal | fox(es)? | 狐狸 | Fuchs|Füchse | zorros?
monkey | animal | monkeys? | 猴子 | Affen? | monos?
donkey | animal | donkeys? | 驴 | Esel | burros?
parrot | animal | parrots? | 鹦鹉 | Papagei(en)? | loros?
lion | animal | lions? | 狮子 | Löwen? | le(ón|ones)
snake | animal | snakes? | 蛇 | Schlangen? | serpientes?
bird | animal | birds? | 鸟 | Vogel|Vögel | pájaros?
sparrow | animal | sparrows? | 麻雀 | Spatz|Spatzen | gorri(ón|ones)
fish | animal | fish | 鱼 | Fische? | pez|peces
wolf | animal | wolf|wolves | 狼 | Wolf|Wölfe | lobos?
doctor | person | doctors? | 医生 | Arzt | médicos?
teacher | person | teachers? | 老师 | Lehrer | profesor(es)?
farmer | person | farmers? | 农民 | Bauern? | granjeros?
cook | person | cooks? | 厨师 | Koch|Köche | cocineros?
hunter | person | hunters? | 猎人 | Jäger | cazador(es)?
painter | person | painters? | 画家 | Maler | pintor(es)?
baker | person | bakers? | 面包师 | Bäcker | panaderos?
judge | person | judges? | 法官 | Richter | juez|jueces
soldier | person | soldiers? | 士兵 | Soldat(en)? | soldados?
nurse | person | nurses? | 护士 | Pfleger | enfermeros?
tailor | person | tailors? | 裁缝 | Schneider | sastres?
apple | fruit | apples? | 苹果 | Apfel|Äpfel | manzanas?
pear | fruit | pears? | 梨 | Birnen? | peras?
lemon | fruit | lemons? | 柠檬 | Zitronen? | lim(ón|ones)
cherry | fruit | cherry|cherries | 樱桃 | Kirschen? | cerezas?
plum | fruit | plums? | 李子 | Pflaumen? | ciruelas?
peach | fruit | peach(es)? | 桃子 | Pfirsiche? | melocot(ón|ones)
strawberry | fruit | strawberry|strawberries | 草莓 | Erdbeeren? | fresas?
grape | fruit | grapes? | 葡萄 | Trauben? | uvas?
kitchen | place | kitchen | 厨房 | Küche | cocina
garden | place | garden | 花园 | Garten | jardín
cellar | place | cellar | 地窖 | Keller | sótano
bedroom | place | bedroom | 卧室 | Schlafzimmer | dormitorio
bathroom | place | bathroom | 浴室 | Bad | baño
office | place | office | 办公室 | Büro | oficina
school | place | school | 学校 | Schule | escuela
church | place | church | 教堂 | Kirche | iglesia
market | place | market | 市场 | Markt | mercado
forest | place | forest | 森林 | Wald | bosque
bridge | place | bridge | 大桥 | Brücke | puente
station | place | station | 车站 | Bahnhof | estación
attic | place | attic | 阁楼 | Dachboden | desván
tower | place | tower | 塔楼 | Turm | torre
red | colour | red | 红色 | rote? | rojos?
blue | colour | blue | 蓝色 | blaue? | azul(es)?
green | colour | green | 绿色 | grüne? | verdes?
white | colour | white | 白色 | weiße? | blancos?
black | colour | black | 黑色 | schwarze? | negros?
yellow | colour | yellow | 黄色 | gelbe? | amarillos?
brown | colour | brown | 棕色 | braune? | marr(ón|ones)
grey | colour | grey | 灰色 | graue? | gris(es)?
purple | colour | purple | 紫色 | lila | morados?
key | thing | keys? | 钥匙 | Schlüssel | llaves?
coin | thing | coins? | 硬币 | Münzen? | monedas?
letter | thing | letters? | 信 | Briefe? | cartas?
hat | thing | hats? | 帽子 | Hut|Hüte | sombreros?
knife | thing | knife|knives | 刀 | Messer | cuchillos?
candle | thing | candles? | 蜡烛 | Kerzen? | velas?
spoon | thing | spoons? | 勺子 | Löffel | cucharas?
fork | thing | forks? | 叉子 | Gabeln? | tenedor(es)?
pen | thing | pens? | 钢笔 | Füller | plumas?
ring | thing | rings? | 戒指 | Ringe? | anillos?
book | thing | books? | 书 | Buch|Bücher | libros?
towel | thing | towels? | 毛巾 | Handtuch|Handtücher | toallas?
blanket | thing | blankets? | 毯子 | Decken? | mantas?
shoe | thing | shoes? | 鞋子 | Schuhe? | zapatos?
shirt | thing | shirts? | 衬衫 | Hemd(en)? | camisas?
coat | thing | coats? | 外套 | Mantel|Mäntel | abrigos?
cup | thing | cups? | 杯子 | Becher | vasos?
plate | thing | plates? | 盘子 | Teller | platos?
bowl | thing | bowls? | 碗 | Schüsseln? | cuencos?
box | holder | box | 盒子 | Schachtel | caja
bag | holder | bag | 书包 | Tasche | bolso
basket | holder | basket | 篮子 | Korb | cesta
bucket | holder | bucket | 水桶 | Eimer | cubo
train | vehicle | trains? | 火车 | Zug | tren
ship | vehicle | ships? | 船 | Schiff | barco
bicycle | vehicle | bicycles? | 自行车 | Fahrrad | bicicleta
rain | when | rains? | 下雨 | regnet | llueve
snow | when | snows? | 下雪 | schneit | nieva
sun | when | sun shines | 出太阳 | Sonne scheint|scheint die Sonne | hace sol
morning | when | morning | 早上 | Morgen | mañana
noon | when | noon | 中午 | Mittag | mediodía
evening | when | evening | 晚上 | Abend | noche
hot | when | hot | 天热 | heiß | calor
cold | when | cold | 天冷 | kalt | frío
"""
ROWS = [row.split(" | ") for row in LEXICON.strip().splitlines()]
KINDS = {name: kind for name, kind, *_ in ROWS}
FORMS = {language: {row[0]: row[2 + place].casefold() for row in ROWS} for place, language in enumerate(LANGUAGES)}
# A scale a row: more of it | less of it, in English, Chinese, German and Spanish.
SCALES = """
older|oldest | younger|youngest | 年纪最?大 | 年纪最?小 | älter|ältesten | jünger|jüngsten | viej[oa]|mayor | joven|menor
faster|fastest | slower|slowest | 快 | 慢 | schneller|schnellsten | langsamer|langsamsten | más rápido | más despacio
heavier|heaviest | lighter|lightest | 重 | 轻 | schwerer|schwerste | leichter|leichteste | pesa más | pesa menos
taller|tallest | shorter|shortest | 高 | 矮 | größer|größten | kleiner|kleinsten | más alto | más bajo
more expensive|most expensive | cheaper|cheapest | 贵 | 便宜 | teurer|teuersten | billiger|billigsten | cuesta más | cuesta menos
farther|farthest | nearer|nearest | 远 | 近 | weiter weg|weitesten weg | näher|nächsten | más lejos | más cerca
longer|longest | shorter|shortest | 长 | 短 | länger|längste | kürzer|kürzesten | más largo | más corto
newer|newest | less new | 新 | 旧 | neuer|neueste | weniger neu | más nuevo | menos nuevo
"""
NEGATION = {"en": r"\bnot\b", "zh": "不|没有", "de": r"\b(?:nicht|keine?)\b", "es": r"\bno\b"}
ASKED_KIND = {
    "en": "animal fruit colour",
    "zh": "动物 水果 颜色",
    "de": "tier frucht farbe",
    "es": "animal fruta color",
}


def pattern(language: str) -> re.Pattern:
    """Any term of the lexicon, each a group of its own; the longest Chinese words first."""
    forms = sorted(FORMS[language].items(), key=lambda item: -len(item[1]))
    terms = "|".join(f"(?P<{name}>{form})" for name, form in forms)
    return re.compile(terms if language == "zh" else rf"\b(?:{terms})\b")


TERMS = {language: pattern(language) for language in LANGUAGES}


def terms(text: str, language: str) -> list[str]:
    """The English names of the terms in a text, in their order."""
    return [match.lastgroup for match in TERMS[language].finditer(text)]


def parts(record: dict, language: str, marks: str) -> list[str]:
    return [part for part in re.split(f"[{marks}]", record["question"][language].casefold()) if part.strip()]


def by_scale(record: dict, language: str) -> set[str]:
    """Ordering: what may be first when every statement holds, and the question's end of the scale is asked for."""
    *statements, question = [(terms(part, language), part) for part in parts(record, language, ".。，?？")]
    place = 2 * LANGUAGES.index(language)
    scales = [[row.split(" | ")[place + sign] for sign in (0, 1)] for row in SCALES.strip().splitlines()]
    signs = []  # for every sentence: scale -> +1 or -1
    for _, part in [*statements, question]:
        said = TERMS[language].sub("", part)
        ends = [[bool(re.search(end.casefold(), said)) for end in scale] for scale in scales]
        signs.append({scale: more - less for scale, (more, less) in enumerate(ends) if more != less})
    (scale,) = set.intersection(*map(set, signs))
    pairs = []
    for (found, _), sign in zip(statements, signs):
        found = [term for term in found if KINDS[term] == "colour"] or found
        first, second = found
        pairs.append((first, second) if sign[scale] * signs[-1][scale] > 0 else (second, first))
    named = {term for pair in pairs for term in pair}
    orders = [order for order in permutations(named) if all(order.index(one) < order.index(two) for one, two in pairs)]
    return {order[0] for order in orders}


def by_links(record: dict, language: str) -> set[str]:
    """Location, membership and condition: from the last term that stands alone in its sentence, follow the others."""
    links, start = {}, None
    for part in parts(record, language, ".。?？"):
        found = terms(part, language)
        if len(found) == 2:
            assert found[0] not in links, record["id"]
            links[found[0]] = found[1]
        elif found:
            (start,) = found
    while start in links:
        start = links[start]
    return {start}


def by_exclusion(record: dict, language: str) -> set[str]:
    first, *rest, _ = parts(record, language, ".。?？")
    assert all(re.search(NEGATION[language], part) for part in rest), record["id"]
    return set(terms(first, language)) - {term for part in rest for term in terms(part, language)}


def by_kind(record: dict, language: str) -> set[str]:
    question, listed = parts(record, language, ":：")
    found = terms(listed, language)
    asked = [kind for kind, word in zip(ASKED_KIND["en"].split(), ASKED_KIND[language].split()) if word in question]
    if asked:
        negated = bool(re.search(NEGATION[language], question))
        return {term for term in found if (KINDS[term] == asked[0]) != negated}
    counts = Counter(KINDS[term] for term in found)
    return {term for term in found if counts[KINDS[term]] == 1}


SOLVERS = {
    "ordering": by_scale,
    "location": by_links,
    "membership": by_links,
    "condition": by_links,
    "exclusion": by_exclusion,
    "odd-one-out": by_kind,
}


@pytest.mark.parametrize("name", ["reasoning", "reasoning_exemplars"])
def test_each_language_gives_the_answer_by_itself(name):
    for record in records(name):
        for language in LANGUAGES:
            assert SOLVERS[record["category"]](record, language) == {record["answer"]}, (record["id"], language)
            answer = record["answer_text"][language].casefold()
            assert re.fullmatch(FORMS[language][record["answer"]], answer), (record["id"], language)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_exemplars"])
def test_the_same_terms_stand_in_the_same_order_in_every_language(name):
    for record in records(name):
        found = [terms(record["question"][language].casefold(), language) for language in LANGUAGES]
        for kind in set(KINDS.values()):  # kinds apart: a Spanish adjective follows its noun
            told = {tuple(term for term in one if KINDS[term] == kind) for one in found}
            assert len(told) == 1, (record["id"], told)


def test_no_kind_and_no_place_gives_the_answer_away():
    kinds, places = Counter(), Counter()
    for record in records("reasoning"):
        kinds[record["category"]] += 1
        if record["category"] in ("exclusion", "odd-one-out"):
            options = list(dict.fromkeys(terms(record["question"]["en"].casefold(), "en")))
            places[record["category"], options.index(record["answer"])] += 1
    assert min(kinds.values()) >= 12
    assert max(places.values()) <= 6
    asked = Counter(
        bool(re.search("young|slow|light|short|cheap|near", record["question"]["en"].split(".")[-1]))
        for record in records("reasoning")
        if record["category"] == "ordering"
    )
    assert asked == {True: 9, False: 9}


def test_terms_alone_seldom_tell_which_answer():
    """Every answer is an option of another problem that has another answer."""
    options = {}
    for record in records("reasoning"):
        options[record["id"]] = set(terms(record["question"]["en"].casefold(), "en"))
    for record in records("reasoning"):
        others = [other for other in records("reasoning") if record["answer"] in options[other["id"]]]
        assert any(other["answer"] != record["answer"] for other in others), record["id"]


# Opposites by theme, written down for this test: both words in English, Chinese, German and Spanish.
OPPOSITES = """
north south | 北 南 | Norden Süden | norte sur
east west | 东 西 | Osten Westen | este oeste
left right | 左 右 | links rechts | izquierda derecha
up down | 上 下 | oben unten | arriba abajo
front back | 前面 后面 | vorne hinten | delante detrás
inside outside | 里面 外面 | innen außen | dentro fuera
here there | 这里 那里 | hier dort | aquí allí
near far | 近 远 | nah fern | cerca lejos
entrance exit | 入口处 出口处 | Eingang Ausgang | entrada salida
floor ceiling | 地板 天花板 | Boden Decke | suelo techo
heaven hell | 天堂 地狱 | Himmel Hölle | cielo infierno
day night | 白天 夜晚 | Tag Nacht | día noche
yesterday tomorrow | 昨天 明天 | gestern morgen | ayer mañana
summer winter | 夏天 冬天 | Sommer Winter | verano invierno
past future | 过去 未来 | Vergangenheit Zukunft | pasado futuro
before after | 以前 以后 | vorher nachher | antes después
early late | 早 晚 | früh spät | temprano tarde
first last | 最先 最后 | erster letzter | primero último
always never | 总是 从不 | immer nie | siempre nunca
new old | 新 旧 | neu alt | nuevo viejo
big small | 大 小 | groß klein | grande pequeño
long short | 长 短 | lang kurz | largo corto
wide narrow | 宽 窄 | breit schmal | ancho estrecho
deep shallow | 深 浅 | tief seicht | profundo superficial
heavy light | 重 轻 | schwer leicht | pesado ligero
hard soft | 硬 软 | hart weich | duro blando
hot cold | 热 冷 | heiß kalt | caliente frío
dry wet | 干 湿 | trocken nass | seco mojado
clean dirty | 干净 脏 | sauber schmutzig | limpio sucio
bright dark | 亮 暗 | hell dunkel | claro oscuro
black white | 黑色 白色 | schwarz weiß | negro blanco
loud quiet | 吵闹 安静 | laut leise | ruidoso silencioso
sweet sour | 甜 酸 | süß sauer | dulce agrio
full empty | 满 空 | voll leer | lleno vacío
open closed | 开 关 | offen geschlossen | abierto cerrado
fast slow | 快 慢 | schnell langsam | rápido lento
more less | 多 少 | mehr weniger | más menos
increase decrease | 增加 减少 | zunehmen abnehmen | aumentar disminuir
even odd | 偶数 奇数 | gerade ungerade | par impar
cheap expensive | 便宜 贵 | billig teuer | barato caro
profit loss | 盈利 亏损 | Gewinn Verlust | ganancia pérdida
buy sell | 买 卖 | kaufen verkaufen | comprar vender
rich poor | 富 穷 | reich arm | rico pobre
strong weak | 强 弱 | stark schwach | fuerte débil
healthy sick | 健康 生病 | gesund krank | sano enfermo
beautiful ugly | 美丽 丑陋 | schön hässlich | hermoso feo
diligent lazy | 勤劳 懒惰 | fleißig faul | diligente perezoso
happy sad | 快乐 悲伤 | fröhlich traurig | feliz triste
laugh cry | 笑 哭 | lachen weinen | reír llorar
love hate | 爱 恨 | Liebe Hass | amor odio
hope despair | 希望 绝望 | Hoffnung Verzweiflung | esperanza desesperación
friend enemy | 朋友 敌人 | Freund Feind | amigo enemigo
guest host | 客人 主人 | Gast Gastgeber | huésped anfitrión
father mother | 父亲 母亲 | Vater Mutter | padre madre
man woman | 男人 女人 | Mann Frau | hombre mujer
boy girl | 男孩 女孩 | Junge Mädchen | muchacho muchacha
male female | 雄性 雌性 | männlich weiblich | masculino femenino
married single | 已婚 未婚 | verheiratet ledig | casado soltero
life death | 生命 死亡 | Leben Tod | vida muerte
alive dead | 活的 死的 | lebendig tot | vivo muerto
war peace | 战争 和平 | Krieg Frieden | guerra paz
victory defeat | 胜利 失败 | Sieg Niederlage | victoria derrota
win lose | 赢 输 | gewinnen verlieren | ganar perder
good bad | 好 坏 | gut schlecht | bueno malo
true false | 真 假 | wahr falsch | verdadero falso
guilty innocent | 有罪 无罪 | schuldig unschuldig | culpable inocente
allow forbid | 允许 禁止 | erlauben verbieten | permitir prohibir
accept reject | 接受 拒绝 | annehmen ablehnen | aceptar rechazar
safe dangerous | 安全 危险 | sicher gefährlich | seguro peligroso
public private | 公有 私有 | öffentlich privat | público privado
advantage disadvantage | 优势 劣势 | Vorteil Nachteil | ventaja desventaja
appear disappear | 出现 消失 | erscheinen verschwinden | aparecer desaparecer
remember forget | 记得 忘记 | erinnern vergessen | recordar olvidar
push pull | 推 拉 | schieben ziehen | empujar tirar
"""
QUOTED = {"en": r'"(\w+)"', "zh": r"“(\w+)”", "de": r"„(?:sich )?(\w+)“", "es": r"«(\w+)»"}


@pytest.mark.parametrize("name", ["antonyms", "antonyms_exemplars"])
def test_word_and_answer_are_opposites_in_every_language(name):
    rows = [[set(pair.split()) for pair in row.split(" | ")] for row in OPPOSITES.strip().splitlines()]
    for record in records(name):
        asked = [re.search(QUOTED[language], record["question"][language])[1] for language in LANGUAGES]
        pairs = [{word, record["answer_text"][language]} for word, language in zip(asked, LANGUAGES)]
        assert pairs in rows, (record["id"], pairs)
        assert record["answer"] == record["answer_text"]["en"]


def test_no_word_is_asked_for_twice():
    for language in LANGUAGES:
        shown, tested = (
            [re.search(QUOTED[language], record["question"][language])[1] for record in records(name)]
            for name in ("antonyms_exemplars", "antonyms")
        )
        assert len(set(shown + tested)) == len(shown + tested)
        given = {record["answer_text"][language] for record in records("antonyms_exemplars")}
        assert not given & set(tested)  # no exemplar shows a pair that is asked the other way round
