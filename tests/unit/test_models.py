"""Pydantic models as JSON and back."""

from __future__ import annotations

import dataclasses
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

import msgspec
import pydantic
import pytest
from pydantic.alias_generators import to_camel

from ironflow.annotations import readable
from ironflow.codec import decode_value, encode_value
from ironflow.errors import SerializationError


class Payment(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=to_camel)

    amount_cents: int = 0
    card_last4: str | None = None


class Order(pydantic.BaseModel):
    order_id: str = pydantic.Field(alias="orderId")
    payments: list[Payment] = []


class Renamed(pydantic.BaseModel):
    total: int = pydantic.Field(0, validation_alias=pydantic.AliasChoices("in", "amount"), serialization_alias="out")


class Camel(Payment):
    model_config = pydantic.ConfigDict(serialize_by_alias=True)


class RenamedByConfiguration(Renamed):
    model_config = pydantic.ConfigDict(serialize_by_alias=True)


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    at: datetime
    price: Decimal
    id: uuid.UUID
    pair: tuple[int, int] = (1, 2)


class Closed(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    a: int

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return self.a * 2


class Own(pydantic.BaseModel):
    """Has methods of its own, with options of its own."""

    a: int

    def model_dump(self, *, mode: str) -> dict[str, Any]:  # type: ignore[override]
        return {"mode": mode, "A": self.a}

    @classmethod
    def model_validate(cls, obj: Any) -> Self:  # type: ignore[override]
        return cls(a=obj["A"])


MODELS = [
    Payment.model_validate({"amountCents": 4200, "cardLast4": "4242"}),
    Order(orderId="o-1", payments=[Payment.model_validate({"amountCents": 1})]),
    Renamed.model_validate({"in": 5}),
    Camel.model_validate({"amountCents": 1, "cardLast4": "1"}),
    RenamedByConfiguration.model_validate({"in": 5}),
    Strict(at=datetime(2027, 1, 31, tzinfo=UTC), price=Decimal("1.50"), id=uuid.UUID(int=1)),
    Closed(a=1),
    Own(a=1),
    pydantic.RootModel[list[Payment]]([Payment.model_validate({"amountCents": 1})]),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_a_model_comes_back_as_it_was(model: pydantic.BaseModel) -> None:
    assert decode_value(encode_value(model, "it"), type(model), "it") == model
    assert decode_value(encode_value([model], "it"), list[type(model)], "it") == [model]  # type: ignore[misc]


@pytest.mark.parametrize(
    "model",
    [model for model in MODELS if not isinstance(model, Renamed)],  # which an older one does not read itself
    ids=lambda model: type(model).__name__,
)
def test_with_an_older_pydantic_a_model_comes_back_by_its_aliases(
    model: pydantic.BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pydantic.VERSION", "2.10.6")
    encoded = encode_value(model, "it")
    assert decode_value(encoded, type(model), "it") == model
    monkeypatch.undo()
    assert decode_value(encoded, type(model), "it") == model


@pytest.mark.parametrize(
    ("payload", "model", "expected"),
    [
        (b'{"orderId":"o-1","payments":[{"amountCents":1}]}', Order, MODELS[1]),
        (b'{"order_id":"o-1","payments":[{"amount_cents":1}]}', Order, MODELS[1]),
        (b'{"amount":5}', Renamed, MODELS[2]),
    ],
)
def test_what_others_publish_is_read_by_names_and_by_aliases(payload: bytes, model: Any, expected: object) -> None:
    assert decode_value(payload, model, "data") == expected


@pytest.mark.parametrize(
    ("model", "encoded"),
    [
        (Payment.model_validate({"amountCents": 1}), '{"amount_cents":1,"card_last4":null}'),
        (Camel.model_validate({"amountCents": 1}), '{"amountCents":1,"cardLast4":null}'),
        (RenamedByConfiguration.model_validate({"in": 5}), '{"total":5}'),
        (Closed(a=1), '{"a":1}'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_model_is_written_by_names_unless_it_is_configured_otherwise_and_reads_that(
    model: pydantic.BaseModel, encoded: str
) -> None:
    assert bytes(encode_value(model, "it")).decode() == encoded


class Login(pydantic.BaseModel):
    user: str
    token: pydantic.SecretStr | None


class Key(pydantic.BaseModel):
    logins: list[Login]
    key: pydantic.SecretBytes = pydantic.SecretBytes(b"")


@dataclasses.dataclass
class Plain:
    token: pydantic.SecretStr


class Shown(pydantic.BaseModel):
    token: Annotated[pydantic.SecretStr, pydantic.PlainSerializer(lambda secret: secret.get_secret_value())]


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (Login(user="ann", token=pydantic.SecretStr("s3cret")), "it.token: a SecretStr"),
        ([Key(logins=[Login(user="ann", token=pydantic.SecretStr("x"))])], "it[0].logins[0].token: a SecretStr"),
        (Key(logins=[], key=pydantic.SecretBytes(b"x")), "it.key: a SecretBytes"),
        (Plain(pydantic.SecretStr("s3cret")), "it.token: a SecretStr"),
    ],
)
def test_a_secret_is_refused_rather_than_written_as_asterisks(value: object, place: str) -> None:
    with pytest.raises(SerializationError) as caught:
        encode_value(value, "it")
    assert str(caught.value) == (
        f"{place} is not written, since only asterisks would come back; leave it out and look it up "
        "where it is needed, or pass its get_secret_value() if it may be recorded in clear"
    )


@pytest.mark.parametrize(
    "value", [Login(user="**********", token=None), Shown(token=pydantic.SecretStr("s3cret")), Key(logins=[])]
)
def test_what_only_looks_like_a_secret_is_written(value: Any) -> None:
    assert decode_value(encode_value(value, "it"), type(value), "it") == value


def test_numbers_that_pydantic_reads_from_json_stay_exact() -> None:
    class Numbers(msgspec.Struct):
        model: Payment

    large = Numbers(Payment.model_validate({"amountCents": 2**70}))
    assert decode_value(encode_value(large, "it"), Numbers, "it") == large


class Cat(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=to_camel)

    pet_kind: Literal["cat"]


class Dog(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=to_camel)

    pet_kind: Literal["dog"]
    bones: int


Pet = Annotated[Cat | Dog, pydantic.Field(discriminator="pet_kind")]
DOG = Dog.model_validate({"petKind": "dog", "bones": 1})


@pydantic.dataclasses.dataclass
class Weight:
    grams: int = pydantic.Field(gt=0, alias="inGrams")
    of: Pet | None = None


@pydantic.dataclasses.dataclass(config=pydantic.ConfigDict(extra="forbid"))
class Doubled:
    one: int
    two: int = dataclasses.field(init=False, default=2)


T = TypeVar("T")


@pydantic.dataclasses.dataclass
class Of(Generic[T]):
    value: T


WEIGHT = Weight(1, DOG)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (DOG, Pet),
        ([DOG, None], list[Pet | None]),
        ({"a": [DOG]}, dict[str, list[Pet]]),
        (WEIGHT, Weight),
        (None, Weight | None),
        ((WEIGHT, 1), tuple[Weight, int]),
        (Doubled(1), Doubled),
        (Of(1), Of[int]),
    ],
    ids=str,
)
def test_what_pydantic_alone_can_read_comes_back_as_it_was(value: object, annotation: Any) -> None:
    found = readable(annotation)
    assert found.problem is None
    assert decode_value(encode_value(value, "it"), found.type, "it") == value


@pytest.mark.parametrize(
    ("payload", "annotation", "complaint"),
    [
        (b'{"grams":-1}', Weight, "data.grams: Input should be greater than 0"),
        (b'[{"grams":1},{"inGrams":0}]', list[Weight], "data[1].inGrams: Input should be greater than 0"),
        (b'{"value":"x"}', Of[int], "data.value: Input should be a valid integer"),
        (b'{"petKind":"cow"}', Pet, "data: Input tag 'cow' found using "),
        (b'{"a":{"pet_kind":"dog"}}', dict[str, Pet], "data[...].dog.bones: Field required"),
    ],
)
def test_what_pydantic_alone_can_read_is_checked(payload: bytes, annotation: Any, complaint: str) -> None:
    with pytest.raises(SerializationError) as caught:
        decode_value(payload, readable(annotation).type, "data")
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (Cat | Dog, "Type unions may not contain more than one custom type"),
        (Annotated[Cat | int, pydantic.Field(discriminator="pet_kind")], "is not a valid discriminated union variant"),
    ],
)
def test_of_unions_that_nothing_tells_apart_the_reason_is_known(annotation: Any, reason: str) -> None:
    found = readable(annotation)
    assert found.type is Any
    assert reason in str(found.problem)
