package controltest

import (
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// AddRepository records a repository for backups.
func AddRepository(e *Control, name string) {
	e.Helper()
	_, err := e.AddRepository(e.Ctx, api.NewRepository{
		Name: name, URL: "/mnt/" + name, Password: dataset.PasswordSource{File: "/etc/drover/password"},
	})
	require.NoErrorf(e, err, "add repository %s", name)
}
