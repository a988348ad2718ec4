"""Codes of languages as people write them: one of the catalog's for each, or a refusal.

Knows nothing of what a checkpoint speaks.
"""

from __future__ import annotations

import re
from functools import cache

from qwick.errors import ParameterError, shown
from qwick.hub.catalog import SAME_LANGUAGE, read_catalog
from qwick.values import check_kind

__all__ = ["language_code"]

# ISO 639-1, each with its codes in ISO 639-2: the terminological one, and the bibliographic one
# where that is another.
_ISO_639 = """
aa:aar ab:abk ae:ave af:afr ak:aka am:amh an:arg ar:ara as:asm av:ava ay:aym az:aze ba:bak
be:bel bg:bul bi:bis bm:bam bn:ben bo:bod/tib br:bre bs:bos ca:cat ce:che ch:cha co:cos cr:cre
cs:ces/cze cu:chu cv:chv cy:cym/wel da:dan de:deu/ger dv:div dz:dzo ee:ewe el:ell/gre en:eng
eo:epo es:spa et:est eu:eus/baq fa:fas/per ff:ful fi:fin fj:fij fo:fao fr:fra/fre fy:fry ga:gle
gd:gla gl:glg gn:grn gu:guj gv:glv ha:hau he:heb hi:hin ho:hmo hr:hrv ht:hat hu:hun hy:hye/arm
hz:her ia:ina id:ind ie:ile ig:ibo ii:iii ik:ipk io:ido is:isl/ice it:ita iu:iku ja:jpn jv:jav
ka:kat/geo kg:kon ki:kik kj:kua kk:kaz kl:kal km:khm kn:kan ko:kor kr:kau ks:kas ku:kur kv:kom
kw:cor ky:kir la:lat lb:ltz lg:lug li:lim ln:lin lo:lao lt:lit lu:lub lv:lav mg:mlg mh:mah
mi:mri/mao mk:mkd/mac ml:mal mn:mon mr:mar ms:msa/may mt:mlt my:mya/bur na:nau nb:nob nd:nde
ne:nep ng:ndo nl:nld/dut nn:nno no:nor nr:nbl nv:nav ny:nya oc:oci oj:oji om:orm or:ori os:oss
pa:pan pi:pli pl:pol ps:pus pt:por qu:que rm:roh rn:run ro:ron/rum ru:rus rw:kin sa:san sc:srd
sd:snd se:sme sg:sag si:sin sk:slk/slo sl:slv sm:smo sn:sna so:som sq:sqi/alb sr:srp ss:ssw
st:sot su:sun sv:swe sw:swa ta:tam te:tel tg:tgk th:tha ti:tir tk:tuk tl:tgl tn:tsn to:ton
tr:tur ts:tso tt:tat tw:twi ty:tah ug:uig uk:ukr ur:urd uz:uzb ve:ven vi:vie vo:vol wa:wln
wo:wol xh:xho yi:yid yo:yor za:zha zh:zho/chi zu:zul
"""
# A language with a script, a region or both, as BCP 47 writes them: hu, hu-HU, zh-Hant-TW; locales
# are spelt with another sign between them: hu_HU.
_TAG = re.compile(r"([a-z]{2,3})(-[a-z]{4})?(-([a-z]{2}|[0-9]{3}))?")


def language_code(text: str) -> str:
    """Return the code of a language as the catalog writes it: hu for hu, hun, HU, hu-HU, hu_HU.

    That of ISO 639-1, or where that has none one that the catalog names. Raises ParameterError for
    what is no code, and for one that is not known.
    """
    check_kind("language", text, str, "a str")
    match = _TAG.fullmatch(text.strip().lower().replace("_", "-"))
    code = _codes().get(match[1]) if match else None
    if code is None:
        raise ParameterError(
            f"language is {shown(text)}; allowed: codes of ISO 639-1, such as hu, and those that "
            "checkpoints name besides, such as yue",
            hint="look the code up in ISO 639; `qwick models show NAME` lists a checkpoint's",
        )
    return code


@cache
def _codes() -> dict[str, str]:
    """Return what stands for each code that is known."""
    models = read_catalog().models.values()
    found = {code: code for model in models if model.languages for code in model.languages.codes}
    for entry in _ISO_639.split():
        short, _, long = entry.partition(":")
        found |= dict.fromkeys((short, *long.split("/")), short)
    for code, same in SAME_LANGUAGE.items():  # one that stands for several remains what it is
        found.setdefault(code, same[0] if len(same) == 1 else code)
    return found
