package route

import (
	"testing"

	"github.com/droverhq/drover/dataset"
)

func TestFill(t *testing.T) {
	twice := Route{"two", "GET", "/v1/a/{a}/b/{b}"}
	for _, c := range []struct {
		route Route
		names []string
		path  string // empty: refused
		kind  *dataset.Kind
	}{
		{ListVolumes, nil, "/v1/volumes", nil},
		{GetVolume, []string{"db"}, "/v1/volumes/db", nil},
		{RestoreTrash, []string{"a b/c?d%"}, "/v1/trash/a%20b%2Fc%3Fd%25/restore", nil},
		{RestoreTrash, []string{"{x}"}, "/v1/trash/%7Bx%7D/restore", nil},
		{twice, []string{"x", "y"}, "/v1/a/x/b/y", nil},
		{GetVolume, []string{""}, "", dataset.ErrInvalid},
		{GetVolume, []string{"."}, "", dataset.ErrInvalid},
		{GetVolume, []string{".."}, "", dataset.ErrInvalid},
		{GetVolume, nil, "", dataset.ErrInternal},
		{twice, []string{"x"}, "", dataset.ErrInternal},
		{ListVolumes, []string{"db"}, "", dataset.ErrInternal},
	} {
		path, err := c.route.Fill(c.names...)
		if path != c.path || dataset.KindOf(err) != c.kind {
			t.Errorf("%s with %q: %q, %v", c.route.Path, c.names, path, err)
		}
	}
}
