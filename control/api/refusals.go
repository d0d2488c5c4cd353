package api

// AskControl says, in an error, how a person may ask for what a node's engine or agent is refused.
const AskControl = "ask with an operator's certificate, or as root of a control host with " + OnControl

// AskAsAdmin is AskControl for what takes the role admin.
const AskAsAdmin = "ask with an admin's certificate, or as root of a control host with " + OnControl

// OnControl is the environment that makes the command line ask the control replica of this host.
const OnControl = "DROVER_API=unix:///run/drover/control.sock"
