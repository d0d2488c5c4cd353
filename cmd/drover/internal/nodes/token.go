package nodes

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/internal/durable"
)

func newNodeTokenCmd(a *cli.App) *cobra.Command {
	var in api.NewToken
	var out string
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make a token with which one host joins the cluster",
		Long: `Make a token with which one host joins the cluster, once: put it in a file
there and say drover agent --join @FILE. It is printed this once and kept
nowhere. With the name of an existing node, that node comes back with it, as
after its certificate ended.

With --out it is not printed, but written to that file, which only its owner can
read. What was in the file is replaced.`,
		Args: cli.Args(0), ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, false)
	cmd.Flags().StringVar(&in.Name, "name", "", "the only `NAME` that the node can have")
	cmd.Flags().StringVar(&in.TTL, "ttl", "1h", "how long it can be used: `TIME` such as 30m, 168h at most")
	cmd.Flags().StringVar(&out, "out", "", "`FILE` for the token, in place of saying it")
	cli.CompleteFlag(cmd, "name")
	cli.CompleteFlag(cmd, "ttl")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.Connect()
		if err != nil {
			return err
		}
		token, err := c.MakeToken(cmd.Context(), in)
		if err != nil {
			return err
		}
		if out != "" {
			if err := durable.Replace(out, []byte(token.Token+"\n")); err != nil {
				return fmt.Errorf("keep the token: %w", err)
			}
			token.Token = ""
		}
		switch {
		case o.JSON():
			return show.JSON(a.Out, token)
		case out != "":
			return a.Say("token %s, good for one host until %s, is in %s", token.ID,
				token.Expires.Format(time.RFC3339), out)
		}
		if _, err := fmt.Fprintf(a.ErrOut, "token %s, good for one host until %s:\n", token.ID,
			token.Expires.Format(time.RFC3339)); err != nil {
			return err
		}
		return a.Say("%s", token.Token)
	}
	return cmd
}
