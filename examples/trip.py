"""A trip that is booked whole or not at all: each booking has an undo, and a failure undoes them in reverse.

    ironflow dev examples/trip.py
    ironflow publish trip.wanted --data '{"traveller": "ada", "city": "Lisbon"}' --wait
    ironflow publish trip.wanted --data '{"traveller": "ada", "city": "Atlantis"}' --wait

There is no car to be had in Atlantis. So the second run fails, after it has cancelled the hotel and then the flight;
`ironflow runs get RUN` shows both as steps of their own.
"""

from __future__ import annotations

import msgspec

import ironflow
from ironflow import Context, NonRetryableError

CITIES_WITHOUT_CARS = {"Atlantis", "Venice"}


class Trip(msgspec.Struct):
    """Who wants to go where."""

    traveller: str
    city: str


class Booked(msgspec.Struct):
    """What was booked."""

    flight: str
    hotel: str
    car: str


@ironflow.function(id="book-trip", queue="trips", triggers=["trip.wanted"])
async def book_trip(ctx: Context[Trip]) -> Booked:
    """Book a flight, a hotel and a car, or nothing at all."""
    trip = ctx.event.data
    flight = await ctx.step.run("book-flight", book, "flight", trip)
    ctx.step.compensate("book-flight", cancel, flight)
    hotel = await ctx.step.run("book-hotel", book, "hotel", trip)
    ctx.step.compensate("book-hotel", cancel, hotel)
    car = await ctx.step.run("book-car", book, "car", trip)
    ctx.step.compensate("book-car", cancel, car)
    return Booked(flight, hotel, car)


async def book(what: str, trip: Trip) -> str:
    """Book one thing, and return the number of the booking."""
    if what == "car" and trip.city in CITIES_WITHOUT_CARS:
        raise NonRetryableError(f"there are no cars in {trip.city}")
    booking = f"{what}-{trip.city}-{trip.traveller}"
    print(f"booked {booking}")
    return booking


async def cancel(booking: str) -> str:
    """Cancel a booking. A real one would take a cancellation that it knows already for done."""
    print(f"cancelled {booking}")
    return f"cancelled {booking}"
