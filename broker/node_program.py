"""What the process of a private node runs, and in which environment."""

from __future__ import annotations

import os
from pathlib import Path

#: Schedulers of Erlang spin before they sleep; on a machine that others use as well that time is theirs.
_NO_SPINNING = "+sbwt none +sbwtdcpu none +sbwtdio none"
#: What the node runs.
#: It loads its 1,150 modules on all cores before RabbitMQ would one by one (saves 1 to 4 s on two cores), and boots.
#: It stops the monitor that would start an epmd each minute.
#: It elects a leader for each quorum queue that has none: a queue made less than a second before a kill -9 is known
#: to 3.10, but its log is not; such a queue starts empty in term 0 and would refuse its publishers for ever.
#: It ends when its standard input does, without the statistics handler, which delays 3.10's stop by 5 s.
_IN_NODE = """
Plugins = element(2, file:consult(os:getenv("RABBITMQ_ENABLED_PLUGINS_FILE"))),
Spec = fun(App) ->
    {ok, [{application, App, Items}]} = file:consult(code:where_is_file(atom_to_list(App) ++ ".app")), Items
end,
Closure = fun Visit(App, Seen) ->
    case maps:is_key(App, Seen) of
        true -> Seen;
        false ->
            Items = Spec(App),
            More = proplists:get_value(applications, Items, []),
            lists:foldl(Visit, Seen#{App => proplists:get_value(modules, Items, [])}, More)
    end
end,
Apps = lists:foldl(Closure, #{}, [rabbitmq_prelaunch, rabbit, mnesia | lists:append(Plugins)]),
[code:ensure_modules_loaded(Modules) || Modules <- maps:values(Apps)],
rabbit:boot(),
rabbit_sup:stop_child(rabbit_epmd_monitor_sup),
Quorum = [amqqueue:get_pid(Queue) || Queue <- rabbit_amqqueue:list_by_type(quorum)],
[try ra:trigger_election(Server) catch exit:{noproc, _} -> being_made end
    || {Name, _} = Server <- Quorum, ra_leaderboard:lookup_leader(Name) =:= undefined],
spawn(fun Watch() ->
    case io:get_line("") of
        Line when is_list(Line) -> Watch();
        _ ->
            gen_event:delete_handler(rabbit_event, rabbit_mgmt_db_handler, []),
            rabbit:stop_and_halt()
    end
end).
"""

#: Waits for a line before it becomes the node; ends when its input does, which is when we are gone.
_GATE = 'read -r _ && exec "$@"'
#: No Erlang distribution: a name is needed, a port is not. The port given here is never opened or asked.
_NO_DISTRIBUTION = "-start_epmd false -dist_listen false -erl_epmd_port 1"


def command(server: Path) -> list[str | Path]:
    """Give the command of a node that waits for a line on its input, runs, and ends when its input does."""
    name = ["-sname", "volunteer-cloud@localhost"]
    return ["/bin/sh", "-c", _GATE, "sh", server, *name, "-noshell", "-eval", _IN_NODE]


def environment(directory: Path) -> dict[str, str]:
    """Give a node's whole environment: nothing of the caller's, nor of /etc/rabbitmq, reaches it."""
    home = str(directory)
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": home,
        "ERL_FLAGS": f"{_NO_DISTRIBUTION} {_NO_SPINNING}",
        "ERL_CRASH_DUMP_BYTES": "0",
        # The script shall start nothing but the Erlang VM, and leave its input open: _IN_NODE does the rest.
        "RABBITMQ_NODE_ONLY": "1",
        "RABBITMQ_ALLOW_INPUT": "1",
        "RABBITMQ_NODENAME": "volunteer-cloud@localhost",
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": f"{home}/rabbitmq.conf",
        "RABBITMQ_CONFIG_FILES": f"{home}/conf.d/*.conf",
        "RABBITMQ_ADVANCED_CONFIG_FILE": f"{home}/advanced.config",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/enabled_plugins",
        "RABBITMQ_MNESIA_BASE": f"{home}/data",
        "RABBITMQ_LOG_BASE": f"{home}/log",
        # Tables of the size that rabbitmq-env takes for a server cost 30 MB of memory each start.
        "RABBITMQ_MAX_NUMBER_OF_PROCESSES": "262144",
    }
