"""The colours of the XKCD colour survey whose name ends in a basic colour term ("brick red"), by that term.

From the table that matplotlib ships as ``XKCD_COLORS``, which takes long to import and has 400 names more.

Source: Munroe 2010, "Color Survey Results", https://xkcd.com/color/rgb.txt, public domain (CC0).
"""

#: Red, green and blue in hexadecimal, in the order of the survey's table.
SURVEY = {
    "black": "070d0d 000000",
    "grey": (
        "947e94 997570 6b7c85 3c4142 95a3a6 1f3b4d 89a0b0 7ea07a b7c9e2 8d8468 fdfdfe 978a84 7d7f7c c8aca9 "
        "86775f 7a687f 6f828a 866f85 77926f 748b97 59656d 96ae8d d8dcd6 607c8e 363737 929591"
    ),
    "white": "ffffe4 ffffff",
    "red": (
        "850e04 ff073a db5856 a90308 af2f0d fe2f4a a50055 b9484e c0022f ec2d01 be013c 990147 f43605 922b05 "
        "b0054b aa2704 fa4224 fe0002 f5054f f7022a d3494e bb3f3f fc2647 9f2305 7b0323 9e3623 d9544d fd411e "
        "9a0200 980002 ff000d f10c45 ff474c 8f1402 840000 e50000"
    ),
    "orange": (
        "ca6b02 fe4b03 f0833a c14a09 c45508 f0944d ff964f ffab0f ff724c cd5909 dc4d01 c87606 fb7d07 b96902 "
        "d8863b ff5b00 f8481c cb7723 fcb001 ffa756 fd3c06 c65102 fdaa48 c04e01 f97306"
    ),
    "brown": (
        "d3b683 ad900d 7d7103 410200 8b3103 cba560 1d0200 b2713d ab7e4c 6e1005 964e02 ae8b0c 673a3f 696006 "
        "947706 6b4247 ac7e04 876e4b 886806 b25f03 c4a661 b17261 885f01 836539 7f5112 645403 7a5901 60460f "
        "b16002 7b5804 b27a01 7a6a4f 9b7a01 7f7053 544e03 b79400 411900 b1916e be6400 8b2e16 696112 7f2b0a "
        "341c02 ad8150 653700"
    ),
    "yellow": (
        "c2b709 d0e429 fff917 ffdf22 fdb915 ffda03 fce166 ddd618 f1f33f bfac05 b29705 fafe4b fdee73 fffd37 "
        "feff7f d0fe1d c7c10c cfff04 fffd74 d0c101 c6f808 ffad01 d5ab09 fffe71 fffe40 fdff38 eedc5b c9b003 "
        "c2be0e fec615 fffd01 cdc50a c9ff27 cdfd02 fffe7a ffff84 d2bd0a d5b60a ffff14"
    ),
    "green": (
        "56ae57 69d84f 70b23f 388004 61de2a 05ffa6 a6c875 a7ffb5 b2fba5 63b365 8ee53f b7e1a1 bdf8a3 6f6c0a "
        "009337 c8ffb0 a9be70 40fd14 b6c406 9dff00 c4fe82 2cfa1f 0cdc73 b1fc99 76fda8 53fe5c 4efd54 bcf5a6 "
        "90fda9 c2ff89 014600 96b403 089404 8fae22 728f02 699d4c a0bf16 5c8b15 1bfc06 606602 758000 6f7c00 "
        "21c36f 4b6113 4da409 b1d27b 9af764 a6fbb2 3eaf76 8cff9e 94ac02 33b864 889717 75b84f adf802 35ad6b "
        "cffdbc 0add08 548d44 3ae57f 87a922 25ff29 8f9805 51b73b 58bc08 2fef10 2dfe54 0aff02 35530a 50a747 "
        "04f489 20c073 9db92c 638b27 419c03 b1ff65 6ba353 02c14d 2a7e19 2bb179 ccfd7f 99cc04 019529 5cb200 "
        "6c7a0e 044a05 61e160 65fe08 5fa052 a8b504 3d9973 76a973 0bf77d 2baf6a 05480d 98f6b0 11875d 287c37 "
        "94b21c 9be5aa 8cfd7e 658d6d 005249 bff128 667c3e 94a617 062e03 7ebd01 748500 706c11 002d04 749551 "
        "b9ff66 9dc100 7efbb3 657432 08ff08 6fc276 8ffe09 4f9153 728639 3c4d03 25a36f 75fd63 21fc0d 048243 "
        "667e2c d1ffbd 02590f 89a203 7bb274 526525 028f1e 39ad48 a4be5c 7a9703 12e193 6a6e09 0a481e 82a67d "
        "88b378 10a674 154406 76cd26 74a662 b0dd16 789b73 658b38 5ca904 0b4008 4b5d16 a9f971 b0ff9d 8eab12 "
        "9aae07 02ab2e 7af9ab 137e6d 8fff9f c0fb2d 3f9b0b 0cff0c 53fca1 677a04 c7fdb5 01ff07 06470c 033500 "
        "89fe05 96f97b 15b01a"
    ),
    "blue": (
        "acc2d9 d4ffff 0c06f7 3778bf 2242c7 1f6357 507b9c 5684ae 3a2efe 26538d 7bf2da 107ab0 31668a 247afd "
        "78d1b6 3a18b1 02066f 214761 3c73a8 021bf9 4b57db 015482 d6fffe 56fca2 3e82fc 4f738e cafffb 152eff "
        "63f7b4 0339f8 c3fbf4 8b88f8 0203e2 0a437a 0e87cc c4fff7 bdf6fe 29465b 3f829d 016795 040348 4984b8 "
        "1805db 06b1c4 3b719f 9dbcd4 475f94 436bad 00022e 42b395 0804f9 0d75f8 8ab8fe 02ccfe 000133 2e5a88 "
        "26f7fd 8af1fe 661aee 6140ef 276ab3 6488ea 056eee 004577 014182 3b5b92 01889f 3d7afd 5f34e7 658cbb "
        "510ac9 010fcc 8f99fb c6fcff 01386a 5a86ad 04d9ff d7fffe 4e7496 d5ffff 448ee4 49759c 030aa7 02d8e9 "
        "a2bffe 06b48b 0b8b87 632de9 b1d1fc 0652ff 5170d7 5e819d 601ef9 2c6fbb 020035 03719c 98eff9 5a7d9a "
        "047495 5b7c99 040273 6b8ba4 a2cffe d0fefe 0165fc 001146 0504aa 00035b 75bbfd 95d0fc 0343df"
    ),
    "purple": (
        "952e8f 533cc6 430541 ca9bf7 720058 9900fa 751973 734a65 4e0550 a552e6 ad03de a442a0 5d1451 280137 "
        "805b87 895b7b a66fb5 c071fe 76424e 2a0134 f6cefc 6241c7 820747 a55af4 9e43a2 cb00f5 aa23ff 916e99 "
        "a00498 825f87 84597e 826d8c c94cbe db4bda 910951 887191 caa0ff bc13fe 5729ce 703be7 d648d7 b790d4 "
        "36013f 4b006e be03fd 35063e bf77f6 7e1e9c"
    ),
    "pink": (
        "ff0789 dd85d7 e78ea5 ff63e9 ff6f52 ffb2d0 da467d ff9a8a f6688e fb5ffc d1768f ff6163 d90166 c77986 "
        "fb5581 fe828c ff69af c27e79 f36196 fff4f2 df4ec8 cd7584 ff0490 ff7fa7 f075e6 c3909b c83cb9 fe02a2 "
        "de9dac fdb0c0 c88d94 fa2a55 ca7b80 fe46a5 fe83cc cc7a8b ffbacd d5869d e03fd8 d58a94 ce5dae fe2c54 "
        "fe019a f7879a fe7b7c ffb7ce cb0162 ffcfdc fe01b1 ffd1df cb416b ff028d ff81c0"
    ),
}
