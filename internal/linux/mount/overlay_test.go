package mount

import (
	"testing"

	"github.com/droverhq/drover/test/require"
)

func TestUpperDir(t *testing.T) {
	for line, want := range map[string]string{
		"36 35 0:50 / /m rw - overlay overlay rw,lowerdir=/l,upperdir=/a\\040b\\054c,workdir=/w": "/a b,c",
		"36 35 0:50 / /m rw - overlay overlay rw,lowerdir=/l:/k":                                 "",
		"36 35 0:50 / /m rw - overlay overlay rw,lowerdir=l,upperdir=u,workdir=w":                "",
		"36 35 0:50 / /m rw - tmpfs tmpfs rw,upperdir=/u":                                        "",
	} {
		e, err := parseEntry(line)
		require.NoError(t, err)
		if path, ok := UpperDir(e); path != want && ok || ok != (want != "") {
			t.Errorf("%s: %q, %t", line, path, ok)
		}
	}
}
