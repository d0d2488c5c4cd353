package nodes

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/internal/durable"
)

func newNodeTokenCmd(a *cli.App) *cobra.Command {
	var in api.NewToken
	var out string
	cmd := &cobra.Command{
		Use:        "token",
		SuggestFor: []string{"add", "join"},
		Short:      "Create a token with which one host joins the cluster",
		Long: `Create a token with which one host joins the cluster, once. Put it in a file on
that host and run drover agent --join @FILE. The token is printed only now and
stored nowhere. A token with the name of an existing node lets that node join
again, for example after its certificate expired.

With --out the token is not printed, but written to that file, which only its
owner can read. An existing file is replaced.`,
		Args: cli.Args(0), ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, false)
	cmd.Flags().StringVar(&in.Name, "name", "", "`NAME` that the node must have")
	cmd.Flags().StringVar(&in.TTL, "ttl", "1h", "how long the token is valid: `TIME` such as 30m or 2d, at most 7d")
	cmd.Flags().StringVar(&out, "out", "", "write the token to `FILE` instead of printing it")
	cli.CompleteFlag(cmd, "name")
	cli.CompleteFlag(cmd, "ttl")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, _ []string) error {
		token, err := c.MakeToken(cmd.Context(), in)
		if err != nil {
			return err
		}
		if out != "" {
			if err := durable.ReplaceShared(out, []byte(token.Token+"\n")); err != nil {
				return fmt.Errorf("write the token: %w", err)
			}
			token.Token = ""
		}
		switch {
		case o.JSON():
			return cli.JSON(a.Out, token)
		case out != "":
			return a.PrintLine("token %s, valid for one host until %s, is in %s", token.ID,
				cli.When(a.Now(), token.Expires), out)
		}
		if _, err := fmt.Fprintf(a.ErrOut, "token %s, valid for one host until %s:\n", token.ID,
			cli.When(a.Now(), token.Expires)); err != nil {
			return err
		}
		return a.PrintLine("%s", token.Token)
	})
	return cmd
}
