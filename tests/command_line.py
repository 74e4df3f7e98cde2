"""What the tests of the command line share."""


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def refused(result, *words):
    code, out, err = result
    assert code == 2, (code, out, err)
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    assert "Traceback" not in err
    for word in words:
        assert word in err, err
