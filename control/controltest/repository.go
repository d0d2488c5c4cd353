package controltest

import (
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// AddRepository records a repository for backups.
func AddRepository(e *Control, name string) {
	e.Helper()
	_, err := e.AddRepository(e.Ctx, api.NewRepository{
		Name: name, URL: "/mnt/" + name, Password: dataset.PasswordSource{File: "/etc/drover/password"},
	})
	if err != nil {
		e.Fatalf("add repository %s: %v", name, err)
	}
}
