"""What is typed on the command line."""

from pathlib import Path

from bad_input.world import EXPLAIN, RESULTS, STATS, Case, Harm, cut, put, setting, whole

FID = f"blobex fid --checkpoint models/blobgan/rect --stats {STATS} -n 4"
LONG = "x" * 300


def typed(name: str, command: str, *words: str, harm: Harm = whole) -> Case:
    return Case(f"command: {name}", harm, command, words)


def option(name: str, options: str, *words: str, harm: Harm = whole) -> Case:
    """`blobex explain` with more or other options."""
    return typed(f"explain, {name}", f"{EXPLAIN} {options}", *words, harm=harm)


def out(name: str, place: str, *words: str, harm: Harm = whole) -> Case:
    return typed(f"explain, {name}", f"blobex explain photo.png --attribute stop --out {place}", *words, harm=harm)


def fid(name: str, options: str, *words: str, harm: Harm = whole) -> Case:
    return typed(f"fid, {name}", f"{FID} {options}", *words, harm=harm)


def bucket(name: str, arguments: str, *words: str) -> Case:
    return typed(f"remote s3, {name}", f"blobex remote s3 {arguments}", *words)


def untrained(folder: Path) -> None:
    setting("blobgan.start", "scratch")(folder)
    setting("blobgan.training.steps", 0)(folder)


def broken_study(folder: Path) -> None:
    put("reports/sweep_encoder/rect/.study.lock", "")(folder)
    put("reports/sweep_encoder/rect/study.log", "no journal\n{}\n")(folder)


USAGE = [
    typed("an unknown command", "blobex explode", "explode"),
    typed("an unknown option", f"{EXPLAIN} --attributes stop", "--attributes"),
    typed("no photo", "blobex explain --out out", "PHOTO"),
    typed("no folder for the results", "blobex explain photo.png", "--out"),
    typed("steps that are a word", f"{EXPLAIN} --steps many", "--steps"),
    typed("steps that are a fraction", f"{EXPLAIN} --steps 1.5", "--steps"),
    typed("a blob that is a word", f"{EXPLAIN} --blobs car", "--blobs"),
    typed("an option without a value", "blobex explain photo.png --out", "--out"),
    typed("a seed below 0", f"{FID} --seed -1", "--seed"),
    typed("no trials", "blobex sweep cf --trials 0", "--trials"),
    typed("no workers", "blobex sweep cf --workers 0", "--workers"),
    typed("an unknown sweep", "blobex sweep gan", "gan"),
    typed("an import of nothing", "blobex import --as generator --setup rect", "FILE"),
    typed("a stage without its setup", "stage invert", "setup"),
    typed("a stage with too much", "stage report rect", "rect"),
]
EXPLAINED = [
    option("an unknown setup", "--setup round", "unknown setup 'round'"),
    option("a setup that leads out", "--setup ../../rect", "unknown setup '../../rect'"),
    option("an unknown variant", "--variant greedy", "unknown variant 'greedy'"),
    option("an unknown format", "--format json", "unknown format 'json'"),
    option("an unknown gate", "--gate open", "explain.gate.action is 'open'"),
    option("an unknown composition", "--compose collage", "explain.compose is 'collage'"),
    option("an unknown device", "--device tpu", "unknown device 'tpu'"),
    option("a blob below 0", "--blobs -1", "unknown blob -1"),
    option("a blob too many", "--blobs 3", "unknown blob 3"),
    option("blobs and a place", "--blobs 1 --only 0,0,1,1", "give one of them"),
    option("no counterfactuals", "--diverse 0", "explain.basic.count is 0"),
    option("too many counterfactuals", "--diverse 17", "explain.basic.count is 17"),
    option("steps below 0", "--steps -5", "explain.rect.steps is -5"),
    option("steps without end", f"--steps {10**12}", f"explain.rect.steps is {10**12}"),
    option("a price below 0", "--lambda-prox -1", "explain.rect.lambda_prox is -1"),
    option("a price that is no number", "--lambda-prox nan", "explain.rect.lambda_prox is nan"),
    option("an infinite learning rate", "--learning-rate inf", "explain.rect.learning_rate is inf"),
    option("no learning rate", "--learning-rate 0", "explain.rect.learning_rate is 0"),
    option("a class to replace", "--from road", "only a segmentation model replaces a class"),
    option("a place below the picture", "--only 0,0,1,1.5", "reaches out of the image"),
    option("a place that is no number", "--only nan,0,1,1", "reaches out of the image"),
    option("a place of one number", "--only 5", "give left,top,right,bottom"),
    option("a place that is no place", "--only 'unicorn ahead'", "no object is called 'unicorn ahead'"),
    option("an empty place", "--only ''", "give left,top,right,bottom"),
    option("a place of 100,000 letters", f"--only {'x' * 50_000}", "no object is called"),
    option("no such parameters", "--params none.yaml", "cannot read none.yaml"),
    option("no such models", "--models none", "no blobgan weights in none/blobgan/rect"),
    option("attributes beside an unknown one", "--attribute fly", "no output 'fly'"),
    option("an output by a number too large", "--attribute 4", "no output '4'"),
    option("an output by a digit of another script", "--attribute ²", "no output '²'"),
    option(
        "several for given blobs in the published way",
        "--variant targeted --diverse 2",
        "one counterfactual",
        harm=setting("search.mode", "published"),
    ),
    option("published, with other steps", "--steps 3", "its own steps", harm=setting("search.mode", "published")),
    out("results in a file", "photo.png", "is a file"),
    out("results below a file", "photo.png/out", "cannot write"),
    out("results among other files", "photos", "photos holds 0.png, which is no result"),
    out("results of other settings", RESULTS, "holds results of other settings"),
    out(
        "results of damaged settings",
        RESULTS,
        "settings.json is missing or damaged",
        harm=cut(f"{RESULTS}/settings.json"),
    ),
    out("results of settings too deep", RESULTS, "settings.json", harm=put(f"{RESULTS}/settings.json", "[" * 100_000)),
    out("results of settings of Latin-1", RESULTS, "settings.json", harm=put(f"{RESULTS}/settings.json", b"\xff")),
    out("results under a name of 300 letters", LONG, "cannot write"),
    out("results in a device", "/dev/null", "is a file"),
]
OTHERS = [
    fid("one picture", "-n 1", "two images or more"),
    fid("pictures without end", f"-n {10**12}", f"{10**12}"),
    fid("pictures below 0", "-n -4", "two images or more"),
    fid("a batch of none", "--batch-size 0", "the batch size is 0"),
    fid("a truncation above 1", "--truncation 1.5", "the truncation is 1.5"),
    fid("a truncation that is no number", "--truncation nan", "the truncation is nan"),
    fid("an unknown device", "--device tpu", "unknown device 'tpu'"),
    fid("another network", "--network inception", "is of parser features, not of inception"),
    fid("no pictures for the kernel", "--kid none", "there is no folder none"),
    fid("too few pictures for the kernel", "--kid photos", "4 images or more"),
    fid("a checkpoint that is a file", "--checkpoint photo.png", "photo.png is a file"),
    fid("a checkpoint that is none", "--checkpoint none", "no blobgan weights in none"),
    fid("an output that is a folder", "--out photos", "cannot write photos"),
    fid("an output below a file", "--out photo.png/a.json", "cannot write photo.png/a.json"),
    typed("blobs, into a file", "blobex blobs photo.png --out params.yaml", "cannot write into params.yaml"),
    typed("blobs, an unknown setup", "blobex blobs photo.png --out out --setup round", "unknown setup 'round'"),
    typed("blobs, a region outside", "blobex blobs photo.png --out out --region 2,2,3,3", "reaches out of the image"),
    typed("import, an unknown kind", "blobex import photo.png --as gan --setup rect", "unknown kind 'gan'"),
    typed("import, an unknown setup", "blobex import photo.png --as generator --setup round", "unknown setup 'round'"),
    typed(
        "import, a variant that leads out",
        "blobex import photo.png --as decision --setup rect --variant ../x",
        "cannot name",
    ),
    typed("import, a picture", "blobex import photo.png --as generator --setup rect", "not a safe PyTorch checkpoint"),
    typed("truth, an unknown setup", "blobex truth --setup round --out out", "unknown setup 'round'"),
    typed("truth, models that are missing", "blobex truth --out out", "models/decision/rect/night"),
    typed("truth, pictures that are no scenes", "stage truth rect", "night"),
    typed("external, no parameters", "blobex external --params none.yaml", "cannot read none.yaml"),
    typed("a stage of an unknown setup", "stage invert round", "unknown setup 'round'"),
    typed("a stage of a setup that leads out", "stage fid_stats ../../rect", "unknown setup '../../rect'"),
    typed("a stage of a setup that is missing", "stage invert square", "models/blobgan/square"),
    typed("an encoder of an unknown setup", "stage encoder_pretrain round", "unknown setup 'round'"),
    typed("a report of an unknown variant", "stage explain rect greedy", "unknown variant 'greedy'"),
    typed("a variant that leads out", "stage explain rect ../../basic", "unknown variant '../../basic'"),
    typed("a decision of an unknown rule", "stage decision rect ../plain", "unknown rule '../plain'"),
    typed(
        "slots for other blobs",
        "stage blobgan_pretrain rect",
        "make them as many",
        harm=setting("blobgan_pretrain.slots.road", 9),
    ),
    typed(
        "more scales than an image has",
        "stage blobgan_pretrain rect",
        "cannot be halved so often",
        harm=setting("blobgan_pretrain.scales", 8),
    ),
    typed(
        "more tasks than samples",
        "stage blobgan_pretrain rect",
        "lower them to 1 or less",
        harm=setting("blobgan_pretrain.pasted.removed", 0.9),
    ),
    typed(
        "a first lesson without a flow",
        "stage blobgan_pretrain rect",
        "set blobgan.network.layout to flow",
        harm=setting("blobgan.network.layout", "mlp"),
    ),
    typed(
        "no lesson at all",
        "stage blobgan rect",
        "set blobgan.training.steps to 1 or more",
        harm=untrained,
    ),
    typed(
        "a flow from scratch",
        "stage blobgan rect",
        "set blobgan.network.layout to mlp",
        harm=setting("blobgan.start", "scratch"),
    ),
    typed(
        "tracking in nonsense",
        "stage report",
        "run.tracking_uri nonsense:/",
        harm=setting("run.tracking_uri", "nonsense://"),
    ),
    typed(
        "tracking, with a password",
        "stage report",
        "run.tracking_uri dbase://a/b cannot be used",
        harm=setting("run.tracking_uri", "dbase://me:secret@a/b"),
    ),
    typed(
        "tracking below a file",
        "stage report",
        "cannot be used",
        harm=setting("run.tracking_uri", "sqlite:///photo.png/a.db"),
    ),
    typed(
        "tracking in a picture",
        "stage report",
        "cannot be used",
        harm=setting("run.tracking_uri", "sqlite:///photo.png"),
    ),
    typed(
        "a cache in a file",
        "stage fid_stats rect",
        "data.cache photo.png cannot be written",
        harm=setting("data.cache", "photo.png"),
    ),
]
SERVERS = [
    bucket("an address", "s3://bucket", "'s3://bucket' is no bucket"),
    bucket("a path", "../../bucket", "'../../bucket' is no bucket"),
    bucket("a line break", "'bucket\n'", "is no bucket"),
    bucket("two letters", "ab", "'ab' is no bucket"),
    bucket("a prefix that leads out", "bucket --prefix ../up", "the prefix '../up' is no folder"),
    bucket("a prefix with a space", "bucket --prefix 'a b'", "the prefix 'a b' is no folder"),
    bucket("an endpoint that is a word", "bucket --endpoint nonsense", "the endpoint 'nonsense' is no address"),
    bucket("an endpoint that is a file", "bucket --endpoint file:///etc", "the endpoint 'file:///etc' is no address"),
    typed("ui, a port of 0", "blobex ui --port 0", "--port"),
    typed("ui, a port that is a word", "blobex ui --port http", "--port"),
    typed("ui, no parameters", "blobex ui --params none.yaml", "cannot read none.yaml"),
    typed("ui, without a store", "blobex ui", "run.tracking_uri is none"),
    typed(
        "ui, of another server",
        "blobex ui",
        "run.tracking_uri is http://127.0.0.1:9",
        harm=setting("run.tracking_uri", "http://127.0.0.1:9"),
    ),
    typed("sync, without a store", "blobex sync", "run.tracking_uri none"),
    typed(
        "sync, of a server that is not there",
        "blobex sync",
        "run.tracking_uri http://127.0.0.1:9 does not answer",
        harm=setting("run.tracking_uri", "http://me:secret@127.0.0.1:9"),
    ),
    typed(
        "tracking on a machine that nobody knows",
        "stage report",
        "run.tracking_uri http://nowhere.invalid cannot be used",
        harm=setting("run.tracking_uri", "http://nowhere.invalid"),
    ),
]
SWEEPS = [
    typed("sweep, a name that leads out", "blobex sweep cf --name ../../../escaped", "'../../../escaped'", "name"),
    typed("sweep, a name with a slash", "blobex sweep cf --name a/b", "'a/b'", "name"),
    typed("sweep, an absolute name", "blobex sweep invert --name /tmp/escaped", "'/tmp/escaped'", "name"),
    typed("sweep, a name of dots", "blobex sweep encoder --name ..", "'..'", "name"),
    typed("sweep, a name of 300 letters", f"blobex sweep cf --name {LONG}", "name"),
    typed("sweep, a name with a line break", "blobex sweep cf --name 'a\nb'", "name"),
    typed("sweep, an unknown setup", "blobex sweep cf --setup round", "'round'"),
    typed("sweep, applied from outside", "blobex sweep apply ../../photos", "'../../photos'", "name"),
    typed("sweep, of an unknown kind", "blobex sweep apply rect --kind ../..", "unknown sweep '../..'"),
    typed("sweep, too few pictures", "blobex sweep cf", "lower one of them"),
    typed(
        "sweep, storage in nonsense", "blobex sweep encoder --storage nonsense", "the storage nonsense cannot be used"
    ),
    typed(
        "sweep, storage without a driver",
        "blobex sweep encoder --storage dbase://a/b",
        "the storage dbase://a/b cannot be used",
    ),
    typed(
        "sweep, storage with a password",
        "blobex sweep encoder --storage dbase://me:secret@a/b",
        "the storage dbase://a/b cannot be used",
    ),
    typed("sweep, storage in a picture", "blobex sweep encoder --storage sqlite:///photo.png", "cannot be used"),
    typed("sweep, storage below a file", "blobex sweep encoder --storage sqlite:///photo.png/a.db", "cannot be used"),
    typed(
        "sweep, a study that is no journal",
        "blobex sweep encoder",
        "study.log",
        harm=broken_study,
    ),
    typed(
        "sweep, a range upside down",
        "blobex sweep encoder",
        "low must be below high",
        harm=setting("sweep_encoder.space.halvings.low", 9.0),
    ),
    typed(
        "sweep, no space",
        "blobex sweep encoder",
        "sweep_encoder.space is empty",
        harm=setting("sweep_encoder.space", {}),
    ),
]
CASES = [*USAGE, *EXPLAINED, *OTHERS, *SERVERS, *SWEEPS]
