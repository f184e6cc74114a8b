"""Writes sales.csv: 5,000 invented orders of a year, the same ones on every run.

A few lines are broken on purpose, as in any export a person has edited.
"""

import csv
import random
from datetime import date, timedelta
from pathlib import Path

HERE = Path(__file__).parent
ROWS = 5_000
REGIONS = {"north": 26, "south": 21, "east": 17, "west": 23, "overseas": 13}
PRODUCTS = {  # name: (price in cents, popularity, month of its high season)
    "tent": (18_900, 6, 6), "sleeping bag": (8_950, 9, 7), "rucksack": (12_400, 10, 5),
    "stove": (5_475, 12, 7), "head torch": (3_220, 18, 11), "water filter": (4_680, 8, 8),
    "rain jacket": (14_990, 11, 10), "wool socks": (1_490, 30, 12), "trail map": (1_150, 16, 6),
    "climbing rope": (16_700, 4, 8), "snow shoes": (13_950, 5, 1), "flask": (2_680, 22, 12),
}
BROKEN = {611: ("units", ""), 1_874: ("units", "two"), 3_333: ("units", "-1"),
          4_120: ("unit_price", "12,40")}


def write():
    rng = random.Random(2024)
    with (HERE / "sales.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(
            file, ("order_id", "date", "region", "product", "units", "unit_price"),
            lineterminator="\n")
        out.writeheader()
        for number in range(1, ROWS + 1):
            day = date(2024, 1, 1) + timedelta(days=rng.randrange(366))
            weights = [popular * (3 if season == day.month else 1)
                       for _, popular, season in PRODUCTS.values()]
            product = rng.choices(list(PRODUCTS), weights)[0]
            cents = PRODUCTS[product][0] * rng.choice((100, 100, 100, 90, 80)) // 100
            row = {
                "order_id": f"S-{number:05}", "date": day.isoformat(),
                "region": rng.choices(list(REGIONS), list(REGIONS.values()))[0],
                "product": product, "units": rng.choices((1, 2, 3, 4, 6), (60, 22, 9, 6, 3))[0],
                "unit_price": f"{cents // 100}.{cents % 100:02}",
            }
            if number in BROKEN:
                column, value = BROKEN[number]
                row[column] = value
            out.writerow(row)


if __name__ == "__main__":
    write()
