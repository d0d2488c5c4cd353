package main

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
)

// versions is what version prints as JSON.
type versions struct {
	Client string       `json:"client"`
	Server *api.Version `json:"server,omitempty"`
	Error  string       `json:"error,omitempty"` // why the server did not answer
}

func newVersionCmd(a *cli.App) *cobra.Command {
	return cli.Query(a, &cobra.Command{
		Use:               "version",
		Short:             "Print the version of this command and of the server",
		Args:              cli.Args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}, false, func(cmd *cobra.Command, c cli.Remote, o *cli.Output, _ []string) error {
		v := versions{Client: a.Version}
		// An unreachable server is a part of the answer, not a failure of this command.
		if s, err := c.Version(cmd.Context()); err != nil {
			v.Error = err.Error()
		} else {
			v.Server = &s
		}
		return cli.PrintObject(a, o, v, func(v versions) *cli.Form { return versionForm(a, v) })
	})
}

func versionForm(a *cli.App, v versions) *cli.Form {
	f := &cli.Form{}
	f.Add("Client", v.Client)
	f.Add("Server", v.Error)
	if s := v.Server; s != nil {
		f.Add("Server", s.Version)
		f.Add("API", s.API)
		f.Add("Node", s.Node)
		f.Add("Store", s.Store)
		f.Add("Started", cli.When(a.Now(), s.Started))
	}
	return f
}
